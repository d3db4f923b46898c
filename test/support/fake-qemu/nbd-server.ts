import { rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { type BlockNode, writeNode } from './block-graph.js';
import { FakeQmpError } from './errors.js';
import { FrameSocket } from './frames.js';
import { type NbdPlace, proofOf } from './nbd-client.js';

/** One export of a fake's NBD server. */
export interface NbdExport {
  readonly id: string;
  readonly name: string;
  readonly node: BlockNode;
}

interface ServerOptions {
  /** Keys by identity; undefined if clients need none. */
  readonly keys: ReadonlyMap<string, string> | undefined;
  readonly exports: ReadonlyMap<string, NbdExport>;
  /** Called before each write; may throw. */
  readonly beforeWrite: () => Promise<void>;
}

/** A fake's NBD server on a real TCP port or unix socket. */
export class NbdServer {
  readonly #server: Server;
  readonly #clients = new Set<FrameSocket>();
  readonly #options: ServerOptions;

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => {
      socket.setNoDelay(true);
      const frames = new FrameSocket(socket);
      this.#clients.add(frames);
      void frames.closed.then(() => this.#clients.delete(frames));
      void this.#serve(frames);
    });
  }

  /** Listens; throws FakeQmpError if the port is taken. A socket that lies there goes, as in QEMU. */
  static async start(place: NbdPlace, options: ServerOptions): Promise<NbdServer> {
    if ('path' in place) await rm(place.path, { force: true });
    const server = new NbdServer(options);
    const failure = await new Promise<Error | undefined>((resolve) => {
      server.#server.once('error', resolve);
      server.#server.listen(place, () => resolve(undefined));
    });
    if (failure) throw new FakeQmpError('Failed to find an available port: Address already in use');
    return server;
  }

  stop(): void {
    this.#server.close();
    for (const client of this.#clients) client.socket.destroy();
  }

  async #serve(client: FrameSocket): Promise<void> {
    const hello = await client.receive();
    if (!hello) return;
    const refusal = this.#refusal(hello.header);
    const found = [...this.#options.exports.values()].find(
      ({ name }) => name === hello.header['export'],
    );
    if (refusal !== undefined || !found) {
      await client.send({ error: refusal ?? 'Requested export not available' });
      client.socket.destroy();
      return;
    }
    await client.send({ ok: true, sizeBytes: found.node.sizeBytes });
    for (let frame = await client.receive(); frame; frame = await client.receive()) {
      try {
        await this.#handle(found.node, frame.header, frame.payload);
        await client.send({ ok: true });
      } catch (error) {
        await client.send({ error: error instanceof Error ? error.message : String(error) });
      }
    }
    client.socket.destroy();
  }

  #refusal(hello: Readonly<Record<string, unknown>>): string | undefined {
    const { keys } = this.#options;
    if (!keys) return undefined;
    if (hello['identity'] === undefined) return 'TLS negotiation required before option 7 (go)';
    const key = keys.get(String(hello['identity']));
    if (key !== undefined && hello['proof'] === proofOf(key)) return undefined;
    return 'TLS handshake failed: The TLS connection was non-properly terminated.';
  }

  async #handle(
    node: BlockNode,
    header: Readonly<Record<string, unknown>>,
    bytes: Buffer,
  ): Promise<void> {
    if (header['write'] !== undefined) {
      await this.#options.beforeWrite();
      writeNode(node, Number(header['write']), bytes);
    } else if (header['zero'] !== undefined) {
      writeNode(node, Number(header['zero']), Buffer.alloc(Number(header['length'])));
    }
  }
}

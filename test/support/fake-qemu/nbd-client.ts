import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { FakeQmpError } from './errors.js';
import { type Frame, FrameSocket } from './frames.js';

/** Whom a fake proves to be: an identity and its key, from `keys.psk`. */
export interface PskCredentials {
  readonly identity: string;
  readonly key: string;
}

/** Where an NBD server listens. */
export type NbdPlace = { readonly host: string; readonly port: number } | { readonly path: string };

/** A fake's connection to another fake's NBD server. Requests are answered in order. */
export class NbdClient {
  readonly sizeBytes: number;
  readonly #frames: FrameSocket;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(frames: FrameSocket, sizeBytes: number) {
    this.#frames = frames;
    this.sizeBytes = sizeBytes;
  }

  /** Connects, shows its credentials and opens an export. Throws FakeQmpError. */
  static async connect(
    place: NbdPlace,
    exportName: string,
    credentials: PskCredentials | undefined,
  ): Promise<NbdClient> {
    const socket = connect('path' in place ? place : { ...place, noDelay: true });
    const frames = new FrameSocket(socket);
    const failure = await new Promise<Error | undefined>((resolve) => {
      socket.once('connect', () => resolve(undefined));
      socket.once('error', resolve);
    });
    if (failure) {
      const where = 'path' in place ? place.path : `${place.host}:${place.port}`;
      throw new FakeQmpError(`Failed to connect to '${where}': Connection refused`);
    }
    await frames.send({
      export: exportName,
      ...(credentials ? { identity: credentials.identity, proof: proofOf(credentials.key) } : {}),
    });
    const answer = await frames.receive();
    if (answer?.header['ok'] !== true) {
      socket.destroy();
      throw new FakeQmpError(
        String(
          answer?.header['error'] ??
            'TLS handshake failed: The TLS connection was non-properly terminated.',
        ),
      );
    }
    return new NbdClient(frames, Number(answer.header['sizeBytes']));
  }

  /** Writes; rejects with an Error in the kernel's words if that fails or the server is gone. */
  write(offset: number, bytes: Buffer): Promise<void> {
    return this.#request({ write: offset }, bytes);
  }

  /** Writes zeros without sending them. */
  zero(offset: number, length: number): Promise<void> {
    return this.#request({ zero: offset, length });
  }

  flush(): Promise<void> {
    return this.#request({ flush: true });
  }

  close(): void {
    this.#frames.socket.destroy();
  }

  #request(header: Frame['header'], payload?: Buffer): Promise<void> {
    const answer = this.#last.then(async () => {
      const sent = await this.#frames.send(header, payload);
      const frame = sent ? await this.#frames.receive() : undefined;
      if (frame?.header['ok'] !== true) {
        throw new Error(String(frame?.header['error'] ?? 'Input/output error'));
      }
    });
    this.#last = answer.catch(() => undefined);
    return answer;
  }
}

/**
 * What stands in for the handshake of TLS with a pre-shared key: only who has the key can make it.
 */
export function proofOf(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

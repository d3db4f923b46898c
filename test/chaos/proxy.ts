import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** What a way is for. */
export type Traffic = 'control' | 'ram' | 'nbd';

/** Which bytes are swallowed: those away from the host that connects, those to it, or all. */
export type Direction = 'forth' | 'back' | 'both';

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
}

/**
 * The way from one host to one port of another, in the hands of the driver: it can be cut, or
 * swallow what goes one way or both. What is swallowed arrives late, as TCP would have it.
 */
export class Way implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #swallows: Direction | undefined;
  /** Bytes carried away from the host that connects, over the life of the way. */
  bytesForth = 0;
  readonly #waiting = new Set<{ readonly enough: number; readonly resolve: () => void }>();
  /** The port it leads to; may be changed for connections to come. */
  target: number;

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    this.target = target;
    server.on('connection', (near) => this.#join(near));
  }

  static async open(target: number): Promise<Way> {
    const server = createServer({ allowHalfOpen: true });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new Way(server, target);
  }

  /** Ends all connections with a reset; new ones are welcome. */
  reset(): void {
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  /** From now on no byte gets through in this direction, and nobody hears why. */
  swallow(direction: Direction): void {
    this.#swallows = direction;
    for (const pair of this.#pairs) this.#apply(pair);
  }

  /** All is well again. */
  heal(): void {
    this.#swallows = undefined;
    for (const pair of this.#pairs) this.#apply(pair);
  }

  /** Resolves when so many more bytes have been carried away from the host that connects. */
  passes(bytes: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.add({ enough: this.bytesForth + bytes, resolve });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.reset();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #apply({ near, far }: Pair): void {
    if (this.#swallows === 'forth' || this.#swallows === 'both') near.pause();
    else near.resume();
    if (this.#swallows === 'back' || this.#swallows === 'both') far.pause();
    else far.resume();
  }

  #count(bytes: number): void {
    this.bytesForth += bytes;
    for (const waiting of this.#waiting) {
      if (this.bytesForth < waiting.enough) continue;
      this.#waiting.delete(waiting);
      waiting.resolve();
    }
  }

  #join(near: Socket): void {
    const far = connect({ port: this.target, host: '127.0.0.1', allowHalfOpen: true });
    const pair = { near, far };
    this.#pairs.add(pair);
    near.setNoDelay(true);
    far.setNoDelay(true);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('data', (bytes) => {
        if (one === near) this.#count(bytes.length);
        if (other.write(bytes)) return;
        one.pause();
        other.once('drain', () => this.#apply(pair));
      });
      one.on('end', () => other.end());
      one.on('error', () => other.resetAndDestroy());
      one.on('close', () => {
        this.#pairs.delete(pair);
        other.destroy();
      });
    }
    this.#apply(pair);
  }
}

import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Carriage, CarriageTotals, Carrier, StreamPlace } from '../../src/channel/types.js';
import { type Deferred, deferred } from '../../src/util/deferred.js';

/**
 * Carries unix sockets to other unix sockets of this machine, by ticket, at a speed that the test
 * says. No agent, no TLS.
 */
export class ShapedCarrier implements Carrier {
  /** Bytes per second towards the destination, for all carriages together; 0 for no limit. */
  bytesPerSecond = 0;
  /** Where a ticket leads to. */
  readonly places = new Map<string, string>();
  readonly carriages: ShapedCarriage[] = [];
  #freeAtMs = 0;

  async door(): Promise<{ readonly address: string; readonly port: number }> {
    return { address: '127.0.0.1', port: 1 };
  }

  expect(): Carriage {
    throw new Error('Nobody comes to this door.');
  }

  async carry(socketPath: string, { ticket }: StreamPlace): Promise<ShapedCarriage> {
    const target = this.places.get(ticket);
    if (target === undefined) throw new Error(`The ticket ${ticket} leads nowhere.`);
    const carriage = new ShapedCarriage(target, (bytes) => this.#pace(bytes));
    this.carriages.push(carriage);
    await carriage.listen(socketPath);
    return carriage;
  }

  async close(): Promise<void> {
    for (const carriage of this.carriages) carriage.reset(new Error('The carrier is closed.'));
  }

  /** Bytes that have gone towards the destination. */
  get sentBytes(): number {
    return this.carriages.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
  }

  async #pace(bytes: number): Promise<void> {
    if (this.bytesPerSecond === 0) return;
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + (bytes / this.bytesPerSecond) * 1000;
    if (this.#freeAtMs - nowMs > 5) await delay(this.#freeAtMs - nowMs);
  }
}

/** One socket, carried. */
export class ShapedCarriage implements Carriage {
  endedFirst: Carriage['endedFirst'];
  readonly answeredBytes = 0;
  sentBytes = 0;
  receivedBytes = 0;
  readonly #target: string;
  readonly #pace: (bytes: number) => Promise<void>;
  readonly #done: Deferred<CarriageTotals> = deferred();
  readonly #sockets: Socket[] = [];
  #stop = () => {};

  constructor(target: string, pace: (bytes: number) => Promise<void>) {
    this.#target = target;
    this.#pace = pace;
    this.done.catch(() => undefined);
  }

  get done(): Promise<CarriageTotals> {
    return this.#done.promise;
  }

  get carriedBytes(): number {
    return this.sentBytes + this.receivedBytes;
  }

  reset(reason: Error): void {
    this.#stop();
    this.#done.reject(reason);
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The stream breaks, as when the other host is lost. */
  break(reason: Error): void {
    this.endedFirst ??= 'stream';
    this.reset(reason);
  }

  async listen(path: string): Promise<void> {
    const server = createServer((near) => {
      server.close();
      this.#join(near, connect(this.#target));
    });
    this.#stop = () => server.close();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
  }

  #join(near: Socket, far: Socket): void {
    this.#sockets.push(near, far);
    near.on('error', () => undefined);
    far.on('error', () => undefined);
    near.once('close', () => {
      this.endedFirst ??= 'socket';
      far.destroy();
      this.#done.resolve({ sentBytes: this.sentBytes, receivedBytes: this.receivedBytes });
    });
    far.once('close', () => {
      this.endedFirst ??= 'stream';
      near.destroy();
    });
    far.on('data', (bytes: Buffer) => {
      this.receivedBytes += bytes.length;
      near.write(bytes);
    });
    void this.#send(near, far).catch(() => undefined);
  }

  async #send(near: Socket, far: Socket): Promise<void> {
    for await (const chunk of near) {
      const bytes = chunk as Buffer;
      await this.#pace(bytes.length);
      this.sentBytes += bytes.length;
      if (!far.write(bytes)) await new Promise((resolve) => far.once('drain', resolve));
    }
  }
}

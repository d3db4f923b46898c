import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Carriage, CarriageTotals, Carrier, StreamPlace } from '../../src/channel/types.js';
import { connectUnix, OneConnection } from '../../src/channel/unix-socket.js';
import { deferred } from '../../src/util/deferred.js';

const { signal: never } = new AbortController();

/** A data door without certificates, for hosts that have none: whoever has the ticket is let in. */
export class PlainCarrier implements Carrier {
  readonly #expected = new Map<string, { readonly join: PlainJoin; readonly path: string }>();
  readonly #joins = new Set<PlainJoin>();
  #server: Server | undefined;

  async door(): Promise<{ readonly address: string; readonly port: number }> {
    if (!this.#server) {
      this.#server = createServer({ allowHalfOpen: true }, (stream) => void this.#come(stream));
      this.#server.listen(0, '127.0.0.1').unref();
      await once(this.#server, 'listening');
    }
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('The door is shut.');
    return { address: address.address, port: address.port };
  }

  expect(ticket: string, _host: string, path: string): Carriage {
    const join = this.#join();
    this.#expected.set(ticket, { join, path });
    return join;
  }

  async carry(path: string, place: StreamPlace): Promise<Carriage> {
    const stream = connect({ host: place.address, port: place.port, allowHalfOpen: true });
    stream.on('error', () => undefined);
    stream.write(`${place.ticket}\n`);
    await line(stream);
    const join = this.#join();
    const listener = await OneConnection.listen(path);
    listener.accepted({ signal: never }).then(
      (socket) => join.start(stream, socket),
      (error) => join.reset(error),
    );
    return join;
  }

  /** Breaks everything that is carried, as the end of an agent does. */
  cut(): void {
    for (const join of this.#joins) join.reset(new Error('The carrier was cut.'));
    this.#joins.clear();
  }

  async close(): Promise<void> {
    this.cut();
    this.#server?.close();
    this.#server = undefined;
  }

  #join(): PlainJoin {
    const join = new PlainJoin();
    this.#joins.add(join);
    return join;
  }

  async #come(stream: Socket): Promise<void> {
    stream.on('error', () => undefined);
    const ticket = await line(stream).catch(() => '');
    const expected = this.#expected.get(ticket);
    if (!expected || !this.#expected.delete(ticket)) {
      stream.destroy();
      return;
    }
    stream.write('OK\n');
    try {
      expected.join.start(stream, await connectUnix(expected.path, { signal: never }));
    } catch (error) {
      stream.destroy();
      expected.join.reset(error as Error);
    }
  }
}

/** Two sockets, each of which gets what comes from the other one. */
class PlainJoin implements Carriage {
  readonly #done = deferred<CarriageTotals>();
  #stream: Socket | undefined;
  #socket: Socket | undefined;
  #broken: Error | undefined;
  endedFirst: Carriage['endedFirst'];
  answeredBytes = 0;

  constructor() {
    this.#done.promise.catch(() => undefined);
  }

  get done(): Promise<CarriageTotals> {
    return this.#done.promise;
  }

  get carriedBytes(): number {
    return this.#totals.sentBytes + this.#totals.receivedBytes;
  }

  start(stream: Socket, socket: Socket): void {
    this.#stream = stream;
    this.#socket = socket;
    if (this.#broken) {
      this.reset(this.#broken);
      return;
    }
    for (const [side, from] of [
      ['stream', stream],
      ['socket', socket],
    ] as const) {
      from.on('error', () => undefined);
      from.once('end', () => this.#end(side));
      from.once('close', () => {
        this.#end(side);
        if (from.errored || !from.readableEnded) this.reset(new Error(`The ${side} broke.`));
        else if (stream.readableEnded && socket.readableEnded) this.#done.resolve(this.#totals);
      });
    }
    stream.pipe(socket);
    socket.pipe(stream);
  }

  reset(reason: Error): void {
    this.#broken ??= reason;
    this.#done.reject(reason);
    this.#end('stream');
    this.#stream?.resetAndDestroy();
    this.#socket?.destroy();
  }

  get #totals(): CarriageTotals {
    const { bytesRead = 0, bytesWritten = 0 } = this.#socket ?? {};
    return { sentBytes: bytesRead, receivedBytes: bytesWritten };
  }

  #end(side: 'stream' | 'socket'): void {
    if (this.endedFirst === undefined && side === 'stream') {
      this.answeredBytes = this.#totals.sentBytes;
    }
    this.endedFirst ??= side;
  }
}

/** Reads up to the end of a line; what comes after it stays in the stream. */
async function line(stream: Socket): Promise<string> {
  const whole = deferred<string>();
  let text = '';
  const onData = (bytes: Buffer) => {
    const end = bytes.indexOf('\n');
    text += bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
    if (end < 0) return;
    stream.pause();
    stream.off('data', onData);
    stream.unshift(bytes.subarray(end + 1));
    whole.resolve(text);
  };
  const onClose = () => whole.reject(new Error('The door was shut.'));
  stream.on('data', onData).on('close', onClose);
  try {
    return await whole.promise;
  } finally {
    stream.off('close', onClose);
  }
}

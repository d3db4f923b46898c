import type { Socket } from 'node:net';
import { type Deferred, deferred } from '../util/deferred.js';
import { plainText } from '../util/plain-text.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { REASONS, type Reason } from '../util/reasons.js';
import { FrameReceiver } from './frame-receiver.js';
import { FrameSender } from './frame-sender.js';
import { FRAME, frame } from './frames.js';
import type { Carriage, CarriageTotals } from './types.js';

/** So often each end gives a sign of life. */
const ALIVE_MS = 2_000;

/** An end of which nothing has been heard for so long is gone. */
const SILENT_MS = 10_000;

/** So long a stream may take to send its last words. */
const LINGER_MS = 2_000;

const SAID_LIMIT = 500;

/** Hears of what has become of a join. */
export interface JoinEvents {
  /** `endedFirst` is known; comes before anything is done because of that. */
  onEnded?(): void;
  /** It is over: no timer and no socket is left. */
  onOver?(): void;
}

/**
 * Joins a unix socket with the stream to another agent until both directions have ended. The end of
 * one half ends the same half on the other side, and a break of one side breaks the other at once.
 *
 * Either may come first: what it has to say is kept, within bounds, until the other one is there.
 */
export class SocketJoin implements Carriage {
  readonly #events: JoinEvents;
  readonly #done: Deferred<CarriageTotals> = deferred();
  #stream: Socket | undefined;
  #socket: Socket | undefined;
  #sender: FrameSender | undefined;
  #receiver: FrameReceiver | undefined;
  #endedFirst: Carriage['endedFirst'];
  #answeredBytes = 0;
  #ended = { outgoing: false, incoming: false };
  #streamEnded = false;
  #over = false;
  #timer: NodeJS.Timeout | undefined;
  #heard = { bytes: 0, atMs: 0 };

  constructor(events: JoinEvents = {}) {
    this.#events = events;
    // A failure is told to whoever awaits `done`; nobody must.
    this.#done.promise.catch(() => undefined);
  }

  get done(): Promise<CarriageTotals> {
    return this.#done.promise;
  }

  get endedFirst(): Carriage['endedFirst'] {
    return this.#endedFirst;
  }

  get answeredBytes(): number {
    return this.#answeredBytes;
  }

  get carriedBytes(): number {
    return this.#totals.sentBytes + this.#totals.receivedBytes;
  }

  /** True when it can no longer be started or attached to. */
  get over(): boolean {
    return this.#over;
  }

  /** The stream stands, and only frames come from now on. */
  start(stream: Socket): void {
    if (this.#over) {
      stream.destroy();
      return;
    }
    this.#stream = stream;
    const lost = (cause?: unknown) => {
      // Where both have said all, the other end may go while the rest is being written here.
      if (!this.#streamEnded || !this.#ended.outgoing) this.#break('stream', hungUp(cause));
    };
    stream.on('error', lost);
    stream.once('end', lost);
    stream.once('close', () => lost());
    this.#receiver = new FrameReceiver(stream, {
      end: () => this.#endStream(),
      ended: () => this.#end('incoming'),
      broken: (text) => this.#break('stream', said(text)),
      invalid: () => this.#break('stream', nonsense()),
    });
    this.#heard.atMs = performance.now();
    this.#timer = setInterval(() => this.#giveSign(stream), ALIVE_MS).unref();
    this.#receiver.start();
    if (this.#socket) this.#joinBoth(stream, this.#socket);
  }

  /** QEMU has come. */
  attach(socket: Socket): void {
    if (this.#over) {
      socket.destroy();
      return;
    }
    this.#socket = socket;
    socket.once('close', () => {
      if (socket.errored || !socket.readableEnded || !socket.writableFinished) {
        this.#break('socket', brokenBy(socket));
      }
    });
    if (this.#stream) this.#joinBoth(this.#stream, socket);
  }

  /** Nobody has come on one of the sides, or something else is in the way. */
  fail(side: 'socket' | 'stream', reason: Error): void {
    this.#break(side, reason);
  }

  reset(reason: Error): void {
    this.#break('stream', reason);
  }

  get #totals(): CarriageTotals {
    return {
      sentBytes: this.#sender?.sentBytes ?? 0,
      receivedBytes: this.#receiver?.receivedBytes ?? 0,
    };
  }

  #joinBoth(stream: Socket, socket: Socket): void {
    if (socket.destroyed) {
      this.#break('socket', brokenBy(socket));
      return;
    }
    this.#sender = new FrameSender(socket, stream);
    this.#sender.start(
      () => this.#note('socket'),
      () => this.#end('outgoing'),
    );
    this.#receiver?.attach(socket);
  }

  #note(side: 'socket' | 'stream'): void {
    if (this.#endedFirst) return;
    this.#endedFirst = side;
    this.#events.onEnded?.();
  }

  #endStream(): void {
    this.#streamEnded = true;
    this.#answeredBytes = this.#totals.sentBytes;
    this.#note('stream');
  }

  #end(half: 'outgoing' | 'incoming'): void {
    this.#ended[half] = true;
    if (this.#over || !this.#ended.outgoing || !this.#ended.incoming) return;
    this.#leave();
    this.#done.resolve(this.#totals);
    this.#stream?.end();
  }

  #break(side: 'socket' | 'stream', reason: Error): void {
    if (this.#over) return;
    if (!this.#streamEnded) this.#answeredBytes = this.#totals.sentBytes;
    this.#note(side);
    this.#leave();
    this.#done.reject(reason);
    const stream = this.#stream;
    if (!stream?.writable) stream?.destroy();
    else stream.end(frame(FRAME.broken, toldAs(reason)));
  }

  /** What is left of the stream ends by itself, but not later than soon. */
  #leave(): void {
    this.#over = true;
    clearInterval(this.#timer);
    this.#socket?.destroy();
    const stream = this.#stream;
    const linger = setTimeout(() => stream?.destroy(), LINGER_MS).unref();
    stream?.once('close', () => clearTimeout(linger));
    // So that its end is seen.
    stream?.resume();
    this.#events.onOver?.();
  }

  #giveSign(stream: Socket): void {
    const nowMs = performance.now();
    const heardBytes = stream.bytesRead;
    if (heardBytes !== this.#heard.bytes || this.#receiver?.stopped) {
      this.#heard = { bytes: heardBytes, atMs: nowMs };
    } else if (nowMs - this.#heard.atMs >= SILENT_MS) {
      this.#break('stream', silent());
      return;
    }
    if (stream.writable && stream.writableLength === 0) stream.write(frame(FRAME.alive));
  }
}

function hungUp(cause: unknown): ReasonedError {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException;
  const message = `The stream to the other agent was cut${code === undefined ? '' : ` (${code})`}.`;
  return new ReasonedError('PEER_LOST', message, { cause });
}

function silent(): ReasonedError {
  const facts = { limit_ms: SILENT_MS };
  const message = `Nothing came from the other agent for ${SILENT_MS} ms, not even a sign of life.`;
  return new ReasonedError('PEER_LOST', message, { facts });
}

function nonsense(): ReasonedError {
  return new ReasonedError('PEER_LOST', 'The other agent sent what is not part of a stream.');
}

/** What another agent said about why it broke the stream off; believed no more than any word. */
export function said(text: string): ReasonedError {
  const [, code = '', message = ''] = /^([A-Z_]{1,40}) (.*)$/s.exec(text) ?? [];
  const isKnown = Object.hasOwn(REASONS, code);
  const told = plainText(isKnown ? message : text, SAID_LIMIT);
  return new ReasonedError(isKnown ? (code as Reason) : 'PEER_LOST', told);
}

/** The same as it is told. */
export function toldAs(error: Error): string {
  const reason = error instanceof ReasonedError ? error.reason : 'PEER_LOST';
  return `${reason} ${error.message}`;
}

function brokenBy(socket: Socket): Error {
  return socket.errored ?? new Error('The socket was closed before its half had ended.');
}

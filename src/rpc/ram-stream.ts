import { type ByteStream, CHUNK_BYTES } from '../channel/types.js';
import { BoundedQueue } from '../util/bounded-queue.js';
import { deferred } from '../util/deferred.js';
import type { ReasonedError } from '../util/reasoned-error.js';
import { RpcError } from './errors.js';
import type { RamMessage } from './ram-codec.js';

/*
 * StreamRam as a ByteStream, for both ends of the call. HTTP/2 lets a server end its half only
 * together with the whole call, so the end of a half is a message, and the call stays open until
 * both have come.
 *
 * One chunk waits for gRPC and one for the reader; what lies between is bounded by gRPC's own 16
 * messages on each side and by the HTTP/2 window.
 */
export class RamStream implements ByteStream {
  readonly incoming: AsyncIterable<Uint8Array>;
  readonly #outbox = new BoundedQueue<RamMessage>(1);
  readonly #inbox = new BoundedQueue<Uint8Array>(1);
  readonly #incomingEnded = deferred<void>();
  readonly #broken = deferred<Error>();
  readonly #onReset: (error: Error) => void;
  #ended = { outgoing: false, incoming: false };
  #error: Error | undefined;

  /** `onReset` ends the call beneath; it is called at most once. */
  constructor(onReset: (error: Error) => void = () => {}) {
    this.#onReset = onReset;
    this.incoming = this.#inbox;
    // Only a server waits for it.
    this.#incomingEnded.promise.catch(() => {});
  }

  /**
   * Resolves when gRPC has room. The chunk belongs to the stream from then on: it must not be
   * changed.
   */
  async write(chunk: Uint8Array): Promise<void> {
    if (this.#ended.outgoing) throw new Error('Nothing can be written after the end of the half.');
    for (let at = 0; at < chunk.byteLength; at += CHUNK_BYTES) {
      await this.#send({ type: 'data', data: chunk.subarray(at, at + CHUNK_BYTES) });
    }
  }

  async end(): Promise<void> {
    if (this.#ended.outgoing) return;
    this.#ended.outgoing = true;
    await this.#send({ type: 'end' });
    this.#outbox.end();
  }

  reset(reason: Error): void {
    if (this.#error || (this.#ended.outgoing && this.#ended.incoming)) return;
    this.#error = reason;
    this.#outbox.end(reason);
    this.#inbox.end(reason);
    this.#incomingEnded.reject(reason);
    this.#broken.resolve(reason);
    this.#onReset(reason);
  }

  /** What gRPC is to send: a client's half with the ticket, which opens the stream. */
  async *clientMessages(ticket: string): AsyncGenerator<RamMessage, void, undefined> {
    yield { type: 'ticket', ticket };
    yield* this.#outgoing();
  }

  /** The same for a server, whose call ends with this iteration: when both halves have ended. */
  async *serverMessages(): AsyncGenerator<RamMessage, void, undefined> {
    yield* this.#outgoing();
    await this.#incomingEnded.promise;
  }

  /**
   * Takes what a client has received until the call is over. Never rejects: a failure resets the
   * stream.
   */
  async receiveAnswers(messages: AsyncIterable<RamMessage>): Promise<void> {
    await this.#receive(messages);
    // The call is over, so nothing more can be written either.
    if (!this.#ended.outgoing) this.reset(broken());
  }

  /** The same for a server: when the requests are over it may still answer. */
  async receiveRequests(messages: AsyncIterable<RamMessage>): Promise<void> {
    await this.#receive(messages);
  }

  async #receive(messages: AsyncIterable<RamMessage>): Promise<void> {
    try {
      for await (const message of messages) await this.#take(message);
      if (!this.#ended.incoming) throw broken();
    } catch (error) {
      this.reset(error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #take(message: RamMessage): Promise<void> {
    if (message.type === 'unknown') return;
    if (message.type === 'ticket' || this.#ended.incoming) {
      throw new RpcError('REQUEST_INVALID', `StreamRam: ${message.type} came out of order.`);
    }
    if (message.type === 'end') {
      this.#ended.incoming = true;
      this.#inbox.end();
      this.#incomingEnded.resolve();
    } else if (!(await this.#inbox.push(message.data))) {
      throw this.#error ?? new RpcError('PEER_LOST', 'Nobody reads the stream any more.');
    }
  }

  async #send(message: RamMessage): Promise<void> {
    if (this.#error) throw this.#error;
    if (!(await this.#outbox.push(message))) throw await this.#broken.promise;
  }

  async *#outgoing(): AsyncGenerator<RamMessage, void, undefined> {
    let done = false;
    try {
      yield* this.#outbox;
      done = true;
    } finally {
      // gRPC takes no more. The reason usually arrives with what is received, so that goes first.
      if (!done) setImmediate(() => this.reset(broken()));
    }
  }
}

function broken(): ReasonedError {
  return new RpcError('PEER_LOST', 'The stream of RAM broke off before both halves had ended.');
}

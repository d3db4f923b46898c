import type { ByteStream } from '../../src/channel/types.js';
import { deferred } from '../../src/util/deferred.js';

/** What a pair of streams lets a test do besides carrying bytes. */
export interface ByteStreamPair {
  readonly left: ByteStream;
  readonly right: ByteStream;
  /** Breaks both directions, as a cut cable does. */
  cut(reason?: Error): void;
  /**
   * Bytes that were written and not yet read, both directions; `peakBytes` is the most there ever
   * were.
   */
  readonly heldBytes: number;
  readonly peakBytes: number;
}

/**
 * Two ends of a two-way stream in memory. A write resolves when the other end has taken the chunk.
 */
export function byteStreamPair(): ByteStreamPair {
  const gauge = { heldBytes: 0, peakBytes: 0 };
  const toRight = new Lane(gauge);
  const toLeft = new Lane(gauge);
  const cut = (reason: Error = new Error('The stream was cut.')) => {
    toRight.break(reason);
    toLeft.break(reason);
  };
  const end = (outgoing: Lane, incoming: Lane): ByteStream => ({
    incoming,
    write: (chunk) => outgoing.write(chunk),
    end: async () => outgoing.end(),
    reset: cut,
  });
  return {
    left: end(toRight, toLeft),
    right: end(toLeft, toRight),
    cut,
    get heldBytes() {
      return gauge.heldBytes;
    },
    get peakBytes() {
      return gauge.peakBytes;
    },
  };
}

/** One direction. */
class Lane implements AsyncIterable<Uint8Array> {
  readonly #gauge: { heldBytes: number; peakBytes: number };
  #chunk: Uint8Array | undefined;
  #ended = false;
  #reason: Error | undefined;
  #changed = deferred();

  constructor(gauge: { heldBytes: number; peakBytes: number }) {
    this.#gauge = gauge;
  }

  async write(chunk: Uint8Array): Promise<void> {
    if (this.#reason) throw this.#reason;
    this.#chunk = chunk;
    this.#gauge.heldBytes += chunk.length;
    this.#gauge.peakBytes = Math.max(this.#gauge.peakBytes, this.#gauge.heldBytes);
    this.#notify();
    while (this.#chunk === chunk) {
      if (this.#reason) throw this.#reason;
      await this.#changed.promise;
    }
  }

  end(): void {
    this.#ended = true;
    this.#notify();
  }

  break(reason: Error): void {
    this.#reason ??= reason;
    this.#notify();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      if (this.#reason) throw this.#reason;
      const chunk = this.#chunk;
      if (chunk) {
        this.#chunk = undefined;
        this.#gauge.heldBytes -= chunk.length;
        this.#notify();
        yield chunk;
      } else if (this.#ended) return;
      else await this.#changed.promise;
    }
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = deferred();
    changed.resolve();
  }
}

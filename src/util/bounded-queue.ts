import { type Deferred, deferred } from './deferred.js';
import { untilAborted } from './linked-signal.js';

/**
 * A queue between one producer and one consumer that holds at most `limit` items: `push` waits
 * while it is full, so a fast producer is slowed down to the consumer's pace and memory stays
 * bounded.
 */
export class BoundedQueue<T> implements AsyncIterable<T> {
  readonly #limit: number;
  readonly #items: T[] = [];
  #changed: Deferred<void> = deferred();
  #end: { readonly error: unknown } | undefined;

  /** `limit` is at least 1. */
  constructor(limit: number) {
    if (limit < 1) throw new RangeError(`A queue needs room for at least one item, not ${limit}.`);
    this.#limit = limit;
  }

  /**
   * Adds an item; waits while the queue is full. Resolves to false if the queue was ended: nobody
   * will read it.
   */
  async push(item: T, options: { readonly signal?: AbortSignal } = {}): Promise<boolean> {
    while (!this.#end && this.#items.length >= this.#limit) {
      await untilAborted(this.#changed.promise, options.signal);
    }
    if (this.#end) return false;
    this.#items.push(item);
    this.#notify();
    return true;
  }

  /**
   * Ends the queue. The consumer still gets what is queued, then the end, or the error if there is
   * one.
   */
  end(error?: unknown): void {
    this.#end ??= { error };
    this.#notify();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        while (this.#items.length > 0) {
          const item = this.#items.shift() as T;
          this.#notify();
          yield item;
        }
        if (this.#end) {
          if (this.#end.error !== undefined) throw this.#end.error;
          return;
        }
        await this.#changed.promise;
      }
    } finally {
      // The consumer left: release a producer that waits for room.
      this.end();
    }
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = deferred();
    changed.resolve();
  }
}

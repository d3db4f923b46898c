import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { QmpProtocolError, QmpTimeoutError } from './errors.js';
import type { QmpEvents } from './types.gen.js';

/** The events that the client knows by type. */
export type QmpEventName = keyof QmpEvents;

/** One event as QEMU sent it. */
export type QmpEvent<E extends QmpEventName = QmpEventName> = {
  [Name in E]: {
    readonly name: Name;
    readonly data: QmpEvents[Name];
    /**
     * QEMU's wall clock when it happened, in microseconds since 1970. Differences within one host
     * are durations.
     */
    readonly timestampUs: number;
  };
}[E];

/** How long to wait for an event. */
export interface WaitOptions {
  readonly signal: AbortSignal;
  /** Milliseconds; QmpTimeoutError after that. Default: only the signal ends the wait. */
  readonly limitMs?: number;
}

/** Most events kept for a listener that does not ask for them. */
const KEPT_LIMIT = 10_000;

/**
 * Collects events of the given names from the moment it is made. Make it before sending the command
 * that causes the event: what fires between the two is kept, and `next` cannot miss it. It ends
 * with its scope (`using`).
 */
export class EventListener<E extends QmpEventName> implements Disposable {
  readonly #names: ReadonlySet<string>;
  readonly #onDispose: () => void;
  readonly #kept: QmpEvent<E>[] = [];
  #changed: Deferred<void> = deferred();
  #end: Error | undefined;

  /** Made by `QmpClient.listen` only. */
  constructor(names: readonly E[], onDispose: () => void) {
    this.#names = new Set(names);
    this.#onDispose = onDispose;
  }

  /**
   * Returns the oldest event, not yet returned, for which the predicate holds, and waits for it if
   * there is none. Events that do not match are kept for later calls. Rejects when the connection
   * closes and nothing kept matches.
   */
  async next(options: WaitOptions): Promise<QmpEvent<E>>;
  async next<M extends QmpEvent<E>>(
    predicate: (event: QmpEvent<E>) => event is M,
    options: WaitOptions,
  ): Promise<M>;
  async next(
    predicate: (event: QmpEvent<E>) => boolean,
    options: WaitOptions,
  ): Promise<QmpEvent<E>>;
  async next(
    first: WaitOptions | ((event: QmpEvent<E>) => boolean),
    second?: WaitOptions,
  ): Promise<QmpEvent<E>> {
    const predicate = typeof first === 'function' ? first : () => true;
    const options = (typeof first === 'function' ? second : first) as WaitOptions;
    const limitMs = options.limitMs ?? Number.POSITIVE_INFINITY;
    using limit = withTimeout(options.signal, limitMs, () => this.#timeout(limitMs));
    for (;;) {
      const index = this.#kept.findIndex(predicate);
      if (index >= 0) return this.#kept.splice(index, 1)[0] as QmpEvent<E>;
      if (this.#end) throw this.#end;
      await untilAborted(this.#changed.promise, limit.signal);
    }
  }

  /** True where an event that nobody has taken yet is of this kind. */
  has(predicate: (event: QmpEvent<E>) => boolean): boolean {
    return this.#kept.some(predicate);
  }

  /** Called by the client for every event. */
  offer(event: QmpEvent): void {
    if (this.#end || !this.#names.has(event.name)) return;
    this.#kept.push(event as QmpEvent<E>);
    // Dropping one silently could hide the event that somebody waits for, so the listener fails
    // instead.
    if (this.#kept.length > KEPT_LIMIT) {
      this.fail(new QmpProtocolError(`QEMU sent more than ${KEPT_LIMIT} events that nobody took.`));
    }
    this.#notify();
  }

  /** Called by the client when no event can come any more. */
  fail(error: Error): void {
    this.#end ??= error;
    this.#notify();
  }

  [Symbol.dispose](): void {
    this.#onDispose();
    this.fail(new Error(`The listener for ${[...this.#names].join(', ')} has ended.`));
  }

  #timeout(limitMs: number): Error {
    return new QmpTimeoutError(`the event ${[...this.#names].join(' or ')}`, limitMs);
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = deferred();
    changed.resolve();
  }
}

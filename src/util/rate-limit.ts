/** How much of one kind is let through. */
export interface RateLimitOptions {
  /** How many of one key within a window, at least 1. */
  readonly perKey: number;
  /** Milliseconds. */
  readonly windowMs: number;
  /** How many keys are told apart; all others share one. */
  readonly keys: number;
}

/** What was left out of one key. */
export interface LeftOut<T> {
  /** The first one of its window. */
  readonly sample: T;
  /** How many came after the last one that was let through. */
  readonly count: number;
}

interface Window<T> {
  readonly sample: T;
  readonly endMs: number;
  count: number;
}

const OTHERS = '\0others';

/**
 * Lets the first few of each kind through and counts the rest, so that whoever causes them cannot
 * fill a disk. Its memory is bounded whatever keys it is given.
 */
export class RateLimit<T> {
  readonly #options: RateLimitOptions;
  readonly #windows = new Map<string, Window<T>>();

  constructor(options: RateLimitOptions) {
    this.#options = options;
  }

  /** True where this one is to go through. */
  take(key: string, sample: T, nowMs: number): boolean {
    const { perKey, windowMs, keys } = this.#options;
    const known = this.#windows.get(key);
    if (known) return ++known.count <= perKey;
    const own = key === OTHERS || this.#windows.size < keys;
    if (!own) return this.take(OTHERS, sample, nowMs);
    this.#windows.set(key, { sample, endMs: nowMs + windowMs, count: 1 });
    return true;
  }

  /** Ends the windows that are over, and says what was left out of them. */
  sweep(nowMs: number): LeftOut<T>[] {
    const left: LeftOut<T>[] = [];
    for (const [key, { sample, endMs, count }] of this.#windows) {
      if (nowMs < endMs) continue;
      this.#windows.delete(key);
      const { perKey } = this.#options;
      if (count > perKey) left.push({ sample, count: count - perKey });
    }
    return left;
  }
}

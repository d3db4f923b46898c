/** How far a mirror is, at a moment. */
export interface MirrorMark {
  readonly atMs: number;
  readonly ready: boolean;
  /**
   * Bytes still to be copied. A mirror that waits for its share of the speed does not count what
   * the guest writes meanwhile before it goes on.
   */
  readonly remainingBytes: number;
  /** Bytes copied so far, those that had to be copied again included. */
  readonly copiedBytes: number;
}

/** A mirror with less than this left, or less than a hundredth of its disk, is nearly done. */
const NEARLY_BYTES = 16 * 1024 ** 2;
const NEARLY_PART = 0.01;

/**
 * A mirror that does not come nearer gets so long, in milliseconds; less when it is nearly done.
 */
const PATIENCE_MS = 5_000;
const NEARLY_PATIENCE_MS = 1_000;

/** Of what was copied so much must have come off what is left. */
const GAINED_PART = 0.1;

/**
 * Finds out that a mirror does not get done, because the guest writes about as fast as it copies.
 * Made write-blocking it does: then nothing is left behind any more. But each write of the guest
 * then waits for both images, so that comes as late as can be.
 */
export class Convergence {
  readonly #sizeBytes: number;
  #marks: MirrorMark[] = [];

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Takes a look; true when the mirror does not get done by itself. */
  stuck(now: MirrorMark): boolean {
    if (now.ready !== this.#marks.at(-1)?.ready) this.#marks = [];
    this.#marks.push(now);
    const nearly = Math.max(NEARLY_BYTES, this.#sizeBytes * NEARLY_PART);
    const isNearly = now.remainingBytes <= nearly;
    const sinceMs = now.atMs - (isNearly ? NEARLY_PATIENCE_MS : PATIENCE_MS);
    const then = this.#marks.findLast(({ atMs }) => atMs <= sinceMs);
    this.#marks = this.#marks.filter(({ atMs }) => atMs >= now.atMs - 2 * PATIENCE_MS);
    if (!then) return false;
    // A ready mirror copies what is written, and nothing else: it must only not fall behind.
    if (now.ready) return !isNearly && then.remainingBytes > nearly;
    const copied = now.copiedBytes - then.copiedBytes;
    const gained = then.remainingBytes - now.remainingBytes;
    return copied > 0 && gained < GAINED_PART * copied;
  }
}

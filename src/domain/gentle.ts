import { setTimeout as delay } from 'node:timers/promises';
import type { QmpClient } from '../qmp/client.js';
import { type DiskLoad, sampleDisks, totalLoad } from './disk-load.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { WaitOptions } from './types.js';

/** The guest suffers when it gets less done than this part of what it did before... */
const ENOUGH_PART = 0.9;
/** ...and its writes take this much longer: one that has less to write does not suffer. */
const SLOWER_FACTOR = 1.1;

/** How fast all mirrors together begin, in bytes per second. */
export const GENTLE_FIRST_BYTES_PER_S = 32 * 1024 ** 2;

/**
 * Twice a second the mirrors change by these factors: up quickly until the guest has suffered once,
 * then down quickly and up slowly.
 */
const FIRST_UP_FACTOR = 1.5;
const DOWN_FACTOR = 0.7;
const UP_FACTOR = 1.1;

/** They never get slower than this, in bytes per second, so that they come to an end. */
export const GENTLE_FLOOR_BYTES_PER_S = 4 * 1024 ** 2;

/** How long a guest is watched before anything is mirrored, in milliseconds. */
const WATCHED_MS = 1_000;

/** A guest that got nothing done in so many looks has nothing to write, and does not suffer. */
const IDLE_LOOKS = 4;

/**
 * Keeps the mirrors slow enough for the guest to do nearly what it did before they began. Where the
 * guest was idle then, nothing is known, and nothing is slowed down.
 */
export class GentleControl {
  readonly #before: DiskLoad;
  #limit = 0;
  #idleLooks = 0;
  #hasSuffered = false;

  /** `before`: what the guest did while nothing was mirrored. */
  constructor(before: DiskLoad) {
    this.#before = before;
    if (before.operationsPerSecond > 0) this.#limit = GENTLE_FIRST_BYTES_PER_S;
  }

  /** The limit for all mirrors together in bytes per second, 0 for none. */
  get limit(): number {
    return Math.round(this.#limit);
  }

  /**
   * The limit after a look at what the guest does now and at what the mirrors copy in bytes per
   * second.
   */
  next(now: DiskLoad, copiedBytesPerSecond: number): number {
    if (this.#before.operationsPerSecond === 0) return 0;
    this.#idleLooks = now.operationsPerSecond === 0 ? this.#idleLooks + 1 : 0;
    if (this.#suffers(now)) {
      this.#hasSuffered = true;
      this.#limit = Math.max(GENTLE_FLOOR_BYTES_PER_S, this.#limit * DOWN_FACTOR);
    } else if (copiedBytesPerSecond > this.#limit / 2) {
      this.#limit *= this.#hasSuffered ? UP_FACTOR : FIRST_UP_FACTOR;
    }
    return this.limit;
  }

  #suffers(now: DiskLoad): boolean {
    // Writes that have not ended yet have no latency to tell.
    if (this.#idleLooks > 0) return this.#idleLooks <= IDLE_LOOKS;
    return (
      now.operationsPerSecond < this.#before.operationsPerSecond * ENOUGH_PART &&
      now.latencyNs > this.#before.latencyNs * SLOWER_FACTOR
    );
  }
}

/** Looks at what a guest does to its disks while nothing is mirrored. */
export async function watchGuest(
  qmp: QmpClient,
  disks: readonly { readonly diskId: string }[],
  options: WaitOptions,
): Promise<GentleControl | undefined> {
  const diskIds = disks.map(({ diskId }) => diskId);
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  const before = await sampleDisks(qmp, diskIds, step);
  await delay(WATCHED_MS, undefined, options);
  const load = totalLoad(before, await sampleDisks(qmp, diskIds, step));
  return load && new GentleControl(load);
}

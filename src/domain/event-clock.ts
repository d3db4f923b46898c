import { systemClock } from '../util/clock.js';

/** A difference of this size is no delay of this process: somebody has set the wall clock. */
const SET_US = 100_000;

/** How many ticks of the wall clock are looked at. */
const TICKS = 3;

/**
 * Brings the times of QEMU's events, which are wall time of this host, to `systemClock.nowUs()`.
 * Making one waits for a few ticks of the wall clock, so make it while the guest runs.
 */
export class EventClock {
  readonly #offsetUs: number;

  constructor() {
    let offsetUs = Number.POSITIVE_INFINITY;
    // Right after a tick of the wall clock the two fit best; whatever holds this process up makes a
    // sample larger, never smaller.
    for (let ticks = 0, lastMs = Date.now(); ticks < TICKS; ) {
      const nowMs = Date.now();
      offsetUs = Math.min(offsetUs, systemClock.nowUs() - nowMs * 1000);
      if (nowMs !== lastMs) ticks++;
      lastMs = nowMs;
    }
    this.#offsetUs = offsetUs;
  }

  /**
   * The moment of an event. When the wall clock has been set meanwhile, it is exact to a
   * millisecond only.
   */
  toClockUs(timestampUs: number): number {
    const offsetUs = systemClock.nowUs() - Date.now() * 1000;
    const wasSet = Math.abs(offsetUs - this.#offsetUs) > SET_US;
    return timestampUs + (wasSet ? offsetUs : this.#offsetUs);
  }
}

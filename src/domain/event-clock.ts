import { systemClock } from '../util/clock.js';

/** Date.now() has whole milliseconds, so one look at it may be this much late. */
const DATE_RESOLUTION_US = 1000;

/**
 * Brings the times of QEMU's events, which are wall time of this host, to `systemClock.nowUs()`.
 * Making one waits for the wall clock's next millisecond, so make it while the guest runs.
 */
export class EventClock {
  readonly #offsetUs: number;

  constructor() {
    const before = Date.now();
    let now = before;
    while (now === before) now = Date.now();
    this.#offsetUs = systemClock.nowUs() - now * 1000;
  }

  /**
   * The moment of an event. When the wall clock has been set meanwhile, it is exact to a
   * millisecond only.
   */
  toClockUs(timestampUs: number): number {
    const offsetUs = systemClock.nowUs() - Date.now() * 1000;
    const driftUs = offsetUs - this.#offsetUs;
    const wasSet = driftUs < -DATE_RESOLUTION_US || driftUs > 2 * DATE_RESOLUTION_US;
    return timestampUs + (wasSet ? offsetUs : this.#offsetUs);
  }
}

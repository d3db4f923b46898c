import { readFileSync } from 'node:fs';

/** Where time comes from, so that tests can bring their own. */
export interface Clock {
  /**
   * Milliseconds from some fixed point in the past; never goes back. For measuring how long things
   * take.
   */
  nowMs(): number;
  /** The same in whole microseconds. */
  nowUs(): number;
  /** Wall time; may jump. Only for showing to people. */
  date(): Date;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  nowMs: () => performance.now(),
  nowUs: () => Math.round(performance.now() * 1000),
  date: () => new Date(),
};

/**
 * Milliseconds since the machine booted, suspended time included and wall time left out, to ten
 * milliseconds. For leases: a host that slept has been silent all the same.
 */
export function uptimeMs(): number {
  const [seconds] = readFileSync('/proc/uptime', 'latin1').split(' ');
  return Number(seconds) * 1000;
}

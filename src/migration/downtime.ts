/** Names of the moments between the pause of the guest and its resume, in their order. */
export const MOMENTS = [
  'stopped',
  'settled',
  'completed',
  'loaded',
  'committed',
  'resumed',
] as const;

/** One of those moments. */
export type Moment = (typeof MOMENTS)[number];

/** The downtime in microseconds, split into parts that add up to `totalUs`. */
export interface Downtime {
  readonly totalUs: number;
  readonly settleUs: number;
  readonly ramUs: number;
  readonly loadUs: number;
  readonly commitUs: number;
  readonly resumeUs: number;
  /**
   * Of the whole: what safety took. Records made durable on both hosts while the guest was stopped,
   * the last look at QEMU before the guest was given up, and the round trip of the commit.
   */
  readonly safetyUs: number;
}

/**
 * Splits the downtime by the moments noted, in microseconds of one clock. A part that another one
 * overlapped counts zero: each moment is at least the one before it, so the sum is always the
 * whole. `besidesUs` is what safety took besides the part from `loaded` to `committed`.
 */
export function splitDowntime(
  moments: Readonly<Record<Moment, number>>,
  besidesUs: number,
): Downtime {
  let latest = moments.stopped;
  const part = (moment: Moment): number => {
    const us = Math.max(0, Math.round(moments[moment] - latest));
    latest += us;
    return us;
  };
  const settleUs = part('settled');
  const ramUs = part('completed');
  const loadUs = part('loaded');
  const commitUs = part('committed');
  const resumeUs = part('resumed');
  const totalUs = settleUs + ramUs + loadUs + commitUs + resumeUs;
  const safetyUs = Math.min(totalUs, commitUs + Math.round(besidesUs));
  return { totalUs, settleUs, ramUs, loadUs, commitUs, resumeUs, safetyUs };
}

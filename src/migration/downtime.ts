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
}

/**
 * Splits the downtime by the moments noted, in microseconds of one clock. A part that another one
 * overlapped counts zero: each moment is at least the one before it, so the sum is always the
 * whole.
 */
export function splitDowntime(moments: Readonly<Record<Moment, number>>): Downtime {
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
  return { totalUs, settleUs, ramUs, loadUs, commitUs, resumeUs };
}

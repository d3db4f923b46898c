/** The middle of a series and how far it reaches. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/**
 * Median, least and most.
 *
 * @throws RangeError for an empty series
 */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((one, other) => one - other);
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (min === undefined || max === undefined) throw new RangeError('There is nothing to measure.');
  const upper = sorted[Math.floor(sorted.length / 2)] ?? max;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? min;
  return { median: (lower + upper) / 2, min, max };
}

/**
 * What "it never happened in `trials`" proves: with 95 % confidence it happens in less than this
 * share of all cases.
 */
export function upperBoundOfZero(trials: number): number {
  return 1 - 0.05 ** (1 / trials);
}

import type { MoverName } from '../movers/mover.js';
import { type Spread, spreadOf } from '../statistics.js';
import type { Metric } from './metrics.js';
import type { ScenarioResult } from './results.js';

/** A mover's metric in one scenario, over another one's or less it. */
export interface Comparison {
  readonly metric: Metric;
  readonly mover: MoverName;
  readonly against: MoverName;
  readonly as: 'ratio' | 'difference';
}

/** Compares round by round, since the two took their turns in each side by side. */
export function compareRounds(
  { movers }: ScenarioResult,
  { metric, mover, against, as }: Comparison,
): Spread | undefined {
  const others = new Map(
    movers[against]?.turns.map(({ round, metrics }) => [round, metrics[metric]]),
  );
  const values = (movers[mover]?.turns ?? []).flatMap(({ round, metrics }) => {
    const [own, other] = [metrics[metric], others.get(round)];
    if (own === undefined || other === undefined) return [];
    return [as === 'ratio' ? own / other : own - other];
  });
  return values.length === 0 ? undefined : spreadOf(values);
}

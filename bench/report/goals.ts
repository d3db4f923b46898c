import { readFileSync } from 'node:fs';
import type { MoverName } from '../movers/mover.js';
import { compareRounds } from './compare.js';
import { type Metric, showMetric } from './metrics.js';
import type { Results, ScenarioResult } from './results.js';

/** What a figure must not be beyond. Exactly one of the three. */
interface Limit {
  readonly atMost?: number;
  readonly atLeast?: number;
  readonly below?: number;
}

/** One line of the table of goals. */
export interface Goal extends Limit {
  readonly goal: string;
  /** `*` means every scenario in which the movers took part. */
  readonly scenarios: readonly string[];
  readonly metric?: Metric;
  readonly movers: readonly MoverName[];
  /** Compared with each of these; without them the metric itself counts. */
  readonly against?: readonly MoverName[];
  readonly as?: 'ratio' | 'difference';
  /** Compared with the mover's own median in another scenario. */
  readonly againstScenario?: string;
  /** Default: the median. */
  readonly take?: 'median' | 'max';
  /** No move may have failed. */
  readonly noFailure?: boolean;
  /** What else measures it: a file of the project and where in it the figure is. */
  readonly elsewhere?: { readonly file: string; readonly path: string; readonly command: string };
}

/** One figure that a goal is about. */
interface Figure {
  readonly what: string;
  readonly value: number;
  readonly text: string;
}

/** What became of a goal. */
export interface GoalResult {
  readonly goal: Goal;
  readonly met: boolean;
  /** The figure that is nearest to the limit or farthest beyond it; undefined without data. */
  readonly worst: Figure | undefined;
  readonly missed: number;
  readonly checked: number;
}

/** The goals, in their order. */
export function readGoals(): readonly Goal[] {
  return JSON.parse(readFileSync(new URL('../goals.json', import.meta.url), 'utf8')) as Goal[];
}

/** Compares a run with a goal. A goal without data is missed. */
export function judgeGoal(goal: Goal, results: Results): GoalResult {
  const figures = goal.elsewhere ? readElsewhere(goal) : figuresOf(goal, results);
  const sorted = [...figures].sort((one, other) => excess(goal, other) - excess(goal, one));
  const missed = figures.filter((figure) => !holds(goal, figure)).length;
  const [worst] = sorted;
  return { goal, met: figures.length > 0 && missed === 0, worst, missed, checked: figures.length };
}

function figuresOf(goal: Goal, results: Results): Figure[] {
  const wanted = results.scenarios.filter(
    ({ name }) => goal.scenarios.includes('*') || goal.scenarios.includes(name),
  );
  const measured = goal.movers.flatMap((mover) =>
    wanted.flatMap((scenario) => figuresIn(goal, mover, scenario, results)),
  );
  // Where one of the scenarios that are named is missing, nothing is known of it.
  const missing = goal.scenarios.filter(
    (name) => name !== '*' && !wanted.some((scenario) => scenario.name === name),
  );
  const unknown = missing.map((what) => ({ what, value: Number.NaN, text: 'no data' }));
  return [...measured, ...unknown];
}

function figuresIn(
  goal: Goal,
  mover: MoverName,
  scenario: ScenarioResult,
  results: Results,
): Figure[] {
  const { metric, take = 'median', as = 'ratio' } = goal;
  const own = scenario.movers[mover];
  const place = `${mover}, ${scenario.title}`;
  if (goal.noFailure) {
    return own ? [{ what: place, value: own.failures.length, text: `${own.failures.length}` }] : [];
  }
  if (!metric) return [];
  const figure = (value: number | undefined, what: string, text: string): Figure[] =>
    value === undefined ? [] : [{ what, value, text }];
  if (goal.against) {
    return goal.against.flatMap((against) => {
      const value = compareRounds(scenario, { metric, mover, against, as })?.[take];
      const text = as === 'ratio' ? value?.toFixed(3) : showMetric(metric, value ?? Number.NaN);
      return figure(value, `${place}, against ${against}`, text ?? '');
    });
  }
  const value = own?.spreads[metric]?.[take];
  if (goal.againstScenario === undefined || value === undefined) {
    return figure(value, place, showMetric(metric, value ?? Number.NaN));
  }
  const single = results.scenarios.find(({ name }) => name === goal.againstScenario);
  const base = single?.movers[mover]?.spreads[metric]?.median ?? Number.NaN;
  return figure(value / base, place, (value / base).toFixed(3));
}

function readElsewhere({ goal, elsewhere }: Goal): Figure[] {
  try {
    const text = readFileSync(new URL(`../../${elsewhere?.file}`, import.meta.url), 'utf8');
    const value = (elsewhere?.path ?? '')
      .split('.')
      .reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], JSON.parse(text));
    return typeof value === 'number' ? [{ what: goal, value, text: String(value) }] : [];
  } catch {
    return [];
  }
}

function holds({ atMost, atLeast, below, noFailure }: Goal, { value }: Figure): boolean {
  if (Number.isNaN(value)) return false;
  if (noFailure) return value === 0;
  if (atLeast !== undefined) return value >= atLeast;
  if (below !== undefined) return value < below;
  return atMost !== undefined && value <= atMost;
}

/** How far beyond its limit a figure is; what is not known is farthest. */
function excess({ atMost, atLeast, below = 0 }: Goal, { value }: Figure): number {
  if (Number.isNaN(value)) return Number.POSITIVE_INFINITY;
  return atLeast === undefined ? value - (atMost ?? below) : atLeast - value;
}

/** What became of a goal in one word. */
export function verdictOf({ met, worst, missed, checked }: GoalResult): string {
  if (met) return 'met';
  const known = worst !== undefined && !(missed === checked && Number.isNaN(worst.value));
  return known ? 'MISSED' : 'NO DATA';
}

/** A goal's limit in words. */
export function showLimit({ atMost, atLeast, below, noFailure }: Goal): string {
  if (noFailure) return 'none';
  if (atLeast !== undefined) return `≥ ${atLeast}`;
  return below === undefined ? `≤ ${atMost}` : `< ${below}`;
}

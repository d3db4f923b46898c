import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Turn, Verdict } from '../journal.js';
import type { MoverName } from '../movers/mover.js';
import type { Scenario } from '../scenarios.js';
import { type Spread, spreadOf } from '../statistics.js';
import { METRICS, type Metric } from './metrics.js';

const FOLDER = fileURLToPath(new URL('../results', import.meta.url));

/** A run, as it is published. Nothing in it says whose machine it was. */
export interface Results {
  readonly date: string;
  readonly command: string;
  readonly drover: string;
  readonly qemu: string;
  readonly libvirt: string;
  readonly accelerator: 'tcg';
  readonly machine: string;
  /** How the two hosts and the link between them were made. */
  readonly method: readonly string[];
  readonly load_average: Spread;
  /** Turns in which others took more than a quarter of a core. */
  readonly turns_with_foreign_load: number;
  readonly acked_writes: number;
  /** Everything that integrity checks found wrong, in words. */
  readonly faults: readonly string[];
  readonly scenarios: readonly ScenarioResult[];
}

/** All turns of one scenario. */
export interface ScenarioResult extends Pick<Scenario, 'name' | 'title' | 'link'> {
  readonly guests: number;
  readonly movers: Partial<Record<MoverName, MoverResult>>;
}

/** What one mover came to in one scenario. */
export interface MoverResult {
  readonly failures: readonly string[];
  /** Median, least and most over the turns. */
  readonly spreads: Partial<Record<Metric, Spread>>;
  /** Every turn, by round: ratios are made within a round, and of those the median counts. */
  readonly turns: readonly TurnResult[];
}

/** One turn. */
export interface TurnResult {
  readonly round: number;
  readonly load: number;
  /** Cores that others were busy with. */
  readonly foreign: number;
  readonly metrics: Partial<Record<Metric, number>>;
}

/** Puts the turns of a scenario together. */
export function summarizeScenario(
  scenario: Scenario,
  turns: readonly Turn[],
): ScenarioResult | undefined {
  const own = turns.filter(({ scenario: name, round }) => name === scenario.name && round > 0);
  if (own.length === 0) return undefined;
  const movers: Partial<Record<MoverName, MoverResult>> = {};
  for (const name of scenario.movers) {
    const taken = own.filter(({ mover }) => mover === name);
    if (taken.length > 0) movers[name] = summarizeMover(scenario, taken);
  }
  const { name, title, link, guests = 1 } = scenario;
  return { name, title, link, guests, movers };
}

function summarizeMover(scenario: Scenario, taken: readonly Turn[]): MoverResult {
  // A turn that failed was taken again where the run was resumed.
  const turns = taken.flatMap(({ round, figures }): TurnResult[] => {
    if (!figures) return [];
    const metrics: Partial<Record<Metric, number>> = {};
    for (const [metric, of] of Object.entries(METRICS) as [Metric, (typeof METRICS)[Metric]][]) {
      const value = of(figures, scenario);
      if (Number.isFinite(value)) metrics[metric] = rounded(value);
    }
    const { load, foreignCores } = figures;
    return [{ round, load: rounded(load), foreign: rounded(foreignCores), metrics }];
  });
  const spreads: Partial<Record<Metric, Spread>> = {};
  for (const metric of Object.keys(METRICS) as Metric[]) {
    const values = turns.flatMap(({ metrics }) => metrics[metric] ?? []);
    if (values.length > 0) spreads[metric] = spreadOf(values);
  }
  const failures = taken.flatMap(({ failure }) => failure ?? []);
  return { failures, spreads, turns };
}

/** What went over all turns. */
export function summarizeTurns(
  turns: readonly Turn[],
  verdicts: readonly Verdict[],
): Pick<Results, 'load_average' | 'turns_with_foreign_load' | 'acked_writes' | 'faults'> {
  const figures = turns.flatMap((turn) => turn.figures ?? []);
  const lost = turns.flatMap(({ scenario, mover, failure }) =>
    failure?.startsWith('WRONG') ? [`${scenario}, ${mover}: ${failure}`] : [],
  );
  const judged = verdicts.flatMap(({ scenario, mover, faults }) =>
    faults.map((fault) => `${scenario}, ${mover}: ${fault}`),
  );
  return {
    load_average: spreadOf(figures.map(({ load }) => rounded(load))),
    turns_with_foreign_load: figures.filter(({ foreignCores }) => foreignCores > 0.25).length,
    acked_writes: verdicts.reduce((sum, { ackedWrites }) => sum + ackedWrites, 0),
    faults: [...lost, ...judged],
  };
}

/** Keeps a run under its date. Answers the file. */
export function writeResults(results: Results): string {
  mkdirSync(FOLDER, { recursive: true });
  const path = join(FOLDER, `${results.date.slice(0, 10)}.json`);
  writeFileSync(path, `${JSON.stringify(results, undefined, 1)}\n`);
  return path;
}

/** The newest run that is kept. */
export function readNewestResults(): Results | undefined {
  if (!existsSync(FOLDER)) return undefined;
  const newest = readdirSync(FOLDER)
    .filter((name) => name.endsWith('.json'))
    .sort()
    .at(-1);
  if (newest === undefined) return undefined;
  return JSON.parse(readFileSync(join(FOLDER, newest), 'utf8')) as Results;
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}

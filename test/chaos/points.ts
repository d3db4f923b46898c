import type { Effect } from './host.js';

/** Which side of a migration does something. */
export type Side = 'source' | 'destination';

/** The part of a migration that a point belongs to. */
export const PHASES = [
  'prepare',
  'mirror',
  'precopy',
  'switchover',
  'handover',
  'cleanup',
] as const;
export type PointPhase = (typeof PHASES)[number];

/** One effect of a run without faults, at which a fault can happen. */
export interface Point {
  /** For example `source qmp migrate-continue before 1`. */
  readonly id: string;
  readonly side: Side;
  readonly name: string;
  readonly nth: number;
  readonly phase: PointPhase;
}

/** Where each phase begins; everything before the first of them belongs to the preparation. */
const BEGINNINGS: readonly (readonly [id: string, phase: PointPhase])[] = [
  ['source call export-disks before 1', 'mirror'],
  ['source call accept-ram before 1', 'precopy'],
  ['source event STOP 1', 'switchover'],
  ['source call commit before 1', 'handover'],
  ['source call commit after 1', 'cleanup'],
];

/** Asked until something is so, or from time to time: how often depends on how fast things are. */
const UNSTEADY =
  /qmp (query-block-jobs|query-migrate|query-jobs|block-job-set-speed)|query-migration|share-ingress|event BLOCK_JOB/;

/** The points that all of these runs have, in the order of the last. */
export function pointsOf(runs: readonly (readonly Effect[])[], source: string): Point[] {
  const last = runs.at(-1) ?? [];
  const ids = runs.map((run) => new Set(run.map((effect) => idOf(effect, source))));
  let phase: PointPhase = 'prepare';
  const points: Point[] = [];
  for (const effect of last) {
    const id = idOf(effect, source);
    phase = BEGINNINGS.find(([beginning]) => beginning === id)?.[1] ?? phase;
    if (!ids.every((one) => one.has(id))) continue;
    if (UNSTEADY.test(effect.name) && effect.nth > 2) continue;
    const { name, nth } = effect;
    points.push({ id, side: sideOf(effect, source), name, nth, phase });
  }
  return points;
}

/** The name of an effect in a run from `source`. */
export function idOf(effect: Effect, source: string): string {
  return `${sideOf(effect, source)} ${effect.name} ${effect.nth}`;
}

export function sideOf({ host }: Pick<Effect, 'host'>, source: string): Side {
  return host === source ? 'source' : 'destination';
}

import type { FleetSetup } from './fleet.js';
import { type Point, pointsOf } from './points.js';
import { Stage } from './run.js';

const HAPPY_RUNS = 4;

/** Moves a guest to and fro without any fault, to learn at which points one can happen. */
export async function findPoints(setup: FleetSetup): Promise<Point[]> {
  await using stage = await Stage.open(setup);
  const runs = [];
  for (let run = 0; run < HAPPY_RUNS; run++) {
    const source = stage.where;
    const effects = await stage.happyRun();
    const named = (host: string) => (host === source ? 'source' : 'destination');
    // The first move finds everything new.
    if (run > 0) runs.push(effects.map((effect) => ({ ...effect, host: named(effect.host) })));
  }
  return pointsOf(runs, 'source');
}

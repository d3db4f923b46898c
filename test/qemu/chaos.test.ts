import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { buildAgent } from '../chaos/build.js';
import { findPoints } from '../chaos/find-points.js';
import { cellId, plan } from '../chaos/plan.js';
import { Results } from '../chaos/results.js';
import { Worker } from '../chaos/worker.js';

/*
 * A slice of `npm run test:chaos`: faults in the moments in which nobody runs the guest, chosen by
 * a seed. Agents are processes of their own and QEMU is real.
 */

const RUNS = 50;
const SEED = 'slice';
const FAULTS = [
  'kill',
  'reset',
  'lose',
  'late',
  'duplicate',
  'journal',
  'cancel',
  'guest',
] as const;

const folder = await mkdtemp(join(tmpdir(), 'drover-slice-'));
const setup = { program: await buildAgent(), disks: 1, diskMib: 8 };
const results = new Results(join(folder, 'results.jsonl'), 'nothing');
const places = { traces: join(folder, 'traces'), evidence: join(folder, 'evidence') };
const worker = new Worker(setup, results, places);
afterAll(async () => {
  await worker[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const points = await findPoints(setup);
const cells = plan(points, {
  points: 'switchover',
  faults: FAULTS,
  seed: SEED,
  runs: RUNS,
  slowShare: 0,
});

it.each(cells.map((cell) => ({ title: cellId(cell), cell })))(
  'a guest survives $title',
  async ({ cell }) => {
    const { violations } = await worker.run(cell);
    expect(violations.join('\n')).toBe('');
  },
);

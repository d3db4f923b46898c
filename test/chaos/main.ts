import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildAgent, chaosFolder } from './build.js';
import { checkTraces } from './check-traces.js';
import { findPoints } from './find-points.js';
import type { FleetSetup } from './fleet.js';
import { cellId, plan, type Selection } from './plan.js';
import { Results } from './results.js';
import type { Cell } from './run.js';
import { specialCells, specialSetup } from './special.js';
import { writeTable } from './table.js';
import { Worker } from './worker.js';

/*
 * Moves guests while something goes wrong, again and again, and judges what comes of it. Results
 * go to .cache/chaos; the first line that a failure prints repeats it.
 */

const USAGE = `usage: test:chaos [--points all|switchover|REGEXP] [--faults NAME,...] [--runs N]
                  [--seed TEXT] [--jobs 2] [--disks 1] [--disk-mib 8] [--resume | --again] [--list]
       test:chaos --kill-mirror N | --kill-precopy N | --kill-window N [--seed TEXT]
       test:chaos --table docs/fault-matrix.md [--note TEXT]...
       test:chaos --check-traces`;
const SPECIALS = ['kill-mirror', 'kill-precopy', 'kill-window'] as const;

const { values } = parseArgs({
  options: {
    points: { type: 'string', default: 'all' },
    faults: { type: 'string', default: '' },
    runs: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' },
    disks: { type: 'string', default: '1' },
    'disk-mib': { type: 'string', default: '8' },
    'slow-share': { type: 'string', default: '0.04' },
    results: { type: 'string' },
    resume: { type: 'boolean', default: false },
    again: { type: 'boolean', default: false },
    'kill-mirror': { type: 'string' },
    'kill-precopy': { type: 'string' },
    'kill-window': { type: 'string' },
    list: { type: 'boolean', default: false },
    'check-traces': { type: 'boolean', default: false },
    table: { type: 'string' },
    note: { type: 'string', multiple: true, default: [] },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<boolean> {
  if (values.help) {
    console.log(USAGE);
    return true;
  }
  if (values.table !== undefined) {
    writeTable(values.table, chaosFolder(), values.note);
    return true;
  }
  if (values['check-traces']) {
    const { checked, rescued, faults } = checkTraces(join(chaosFolder(), 'traces'));
    for (const fault of faults) console.log(fault);
    console.log(`${checked} migrations checked, ${faults.length} are no path; ${rescued} rescued`);
    return faults.length === 0;
  }
  const program = await buildAgent();
  const setup = { program, disks: Number(values.disks), diskMib: Number(values['disk-mib']) };
  const points = await findPoints(setup);
  const special = SPECIALS.find((name) => values[name] !== undefined);
  if (special) {
    const cells = specialCells(special, Number(values[special]), points, values.seed);
    return await runAll(cells, specialSetup(special, setup), resultsOf(special));
  }
  const selection: Selection = {
    points: values.points,
    faults: values.faults.split(',').filter((name) => name !== ''),
    seed: values.seed,
    runs: Number(values.runs),
    slowShare: Number(values['slow-share']),
  };
  const cells = plan(points, selection);
  console.log(`${points.length} points, ${cells.length} runs, seed ${values.seed}`);
  if (values.list) {
    for (const { phase, id } of points) console.log(`${phase.padEnd(10)} ${id}`);
    return true;
  }
  return await runAll(cells, setup, resultsOf('results'));
}

function resultsOf(name: string): Results {
  const path = values.results ?? join(chaosFolder(), `${name}.jsonl`);
  return new Results(path, values.again ? 'good' : values.resume ? 'all' : 'nothing');
}

async function runAll(cells: Cell[], setup: FleetSetup, results: Results): Promise<boolean> {
  const folder = chaosFolder();
  const places = { traces: join(folder, 'traces'), evidence: join(folder, 'evidence') };
  if (!values.resume && !values.again) rmSync(places.traces, { recursive: true, force: true });
  const queue = cells.filter((cell) => !results.has(cellId(cell)));
  let failures = 0;
  let done = 0;
  const workers = Array.from(
    { length: Number(values.jobs) },
    () => new Worker(setup, results, places),
  );
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(name, () => process.exit(130));
  }
  await Promise.all(
    workers.map(async (worker) => {
      for (let cell = queue.shift(); cell; cell = queue.shift()) {
        const outcome = await worker.run(cell);
        const { migration, reason, place, totalMs, guestMs, struck, violations } = outcome;
        const verdict = violations.length > 0 ? 'FAILED' : struck ? 'ok' : 'not reached';
        const seconds = (totalMs / 1000).toFixed(1);
        console.log(
          `${++done}/${cells.length} ${verdict}: ${cellId(cell)}: ${migration} ${reason}, ${place}, guest ${guestMs} ms, ${seconds} s`,
        );
        if (violations.length === 0) continue;
        failures++;
        for (const violation of violations) console.log(`    ${violation}`);
        console.log(`    again: ${repeat(cell)}`);
      }
      await worker[Symbol.asyncDispose]();
    }),
  );
  const struck = results.lines.filter((line) => line.struck).length;
  console.log(`${results.lines.length} runs, ${struck} came to their point, ${failures} failed`);
  return failures === 0;
}

function repeat({ point, fault, seed }: Cell): string {
  const points = point ? `'^${point.id}$'` : 'whole';
  return `npm run test:chaos -- --points ${points} --faults ${fault.name} --seed ${seed} --disks ${values.disks}`;
}

// Connections of agents that were killed would keep this process for minutes.
process.exit((await main()) ? 0 : 1);

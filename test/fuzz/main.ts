import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { fuzz } from './run.js';
import { targets } from './targets.js';

/*
 * `npm run test:fuzz -- [--inputs N] [--seed S] [--target T]... [--limit-ms M]`
 *
 * Gives each parser of what strangers, files and wires bring many inputs near what it should get,
 * and some far from it. Prints what was run; ends with 1 when something was found.
 */

const BATCH = 25_000;
/** A heap that has grown by more than this over a run keeps what it should not. */
const HEAP_GROWTH_LIMIT_BYTES = 48 * 1024 ** 2;
/** An input that is still being read after so long will never end. */
const HANG_LIMIT_MS = 20_000;

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '1000000' },
    seed: { type: 'string' },
    target: { type: 'string', multiple: true, default: [] },
    'limit-ms': { type: 'string', default: '50' },
  },
});
const seed = values.seed === undefined ? Date.now() % 2 ** 30 : Number(values.seed);
const chosen = targets.filter(
  ({ name }) => values.target.length === 0 || values.target.includes(name),
);
if (chosen.length === 0) {
  console.error(
    `There is no such target; there are ${targets.map(({ name }) => name).join(', ')}.`,
  );
  process.exit(2);
}

/** Counts inputs where a thread of its own can see whether the count still grows. */
const progress = new Int32Array(new SharedArrayBuffer(8));
const state = { at: '' };
const watchdog = watchForHang();

// Whatever is refused is an error with a stack, which takes longer than to read most inputs.
Error.stackTraceLimit = 4;
let failed = false;
for (const target of chosen) {
  const result = fuzz(target, {
    inputs: Number(values.inputs),
    seed,
    limitMs: Number(values['limit-ms']),
    batch: BATCH,
    onInput: () => {
      progress[0] = ((progress[0] ?? 0) + 1) | 0;
    },
    onProgress: (done, batchSeed) => {
      state.at = `${target.name} --seed ${batchSeed}, after ${done} inputs`;
      watchdog.postMessage(state.at);
    },
  });
  const perSecond = Math.round((result.inputs / result.elapsedMs) * 1000);
  console.log(
    [
      `${target.name}: ${result.inputs} inputs, seed ${seed}`,
      `${(result.elapsedMs / 1000).toFixed(0)} s (${perSecond}/s)`,
      `slowest ${result.slowestMs.toFixed(1)} ms`,
      `heap ${(result.heapGrowthBytes / 1024 ** 2).toFixed(1)} MiB more`,
      result.failure === undefined ? 'clean' : 'FAILED',
    ].join(', '),
  );
  if (result.failure !== undefined) console.error(result.failure);
  if (result.heapGrowthBytes > HEAP_GROWTH_LIMIT_BYTES)
    console.error('The heap has grown too much.');
  failed ||= result.failure !== undefined || result.heapGrowthBytes > HEAP_GROWTH_LIMIT_BYTES;
}
console.log(`peak resident memory ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
await watchdog.terminate();
process.exitCode = failed ? 1 : 0;

/** A parser that never ends holds this thread, so that only another one can say so. */
function watchForHang(): Worker {
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    let at = 'the start', last = -1, sinceMs = Date.now();
    parentPort.on('message', (text) => { at = text; sinceMs = Date.now(); });
    setInterval(() => {
      if (workerData.progress[0] !== last) { last = workerData.progress[0]; sinceMs = Date.now(); }
      if (Date.now() - sinceMs < workerData.limitMs) return;
      require('node:fs').writeSync(2, 'One input does not end: --target ' + at + '\\n');
      process.kill(process.pid, 'SIGKILL');
    }, 500);
  `;
  return new Worker(code, { eval: true, workerData: { progress, limitMs: HANG_LIMIT_MS } });
}

import fc from 'fast-check';
import type { Target } from './target.js';

/** How one target is to be run. */
export interface FuzzOptions {
  readonly inputs: number;
  readonly seed: number;
  /** Milliseconds that one input may take, by the best of several where the first was too slow. */
  readonly limitMs: number;
  /** Says after which number of inputs `onProgress` is called; also how many share one seed. */
  readonly batch: number;
  readonly onInput?: () => void;
  readonly onProgress?: (done: number, seed: number) => void;
}

/** What running one target gave. */
export interface FuzzResult {
  readonly inputs: number;
  readonly elapsedMs: number;
  /** The longest that an input took, by its best of several. */
  readonly slowestMs: number;
  /** By how much the heap in use has grown since the first batch; NaN without `--expose-gc`. */
  readonly heapGrowthBytes: number;
  /** What was found: how to see it again, and the smallest input. */
  readonly failure: string | undefined;
}

/**
 * Gives inputs to a target until one fails. Each batch has a seed of its own, the first one's
 * number counted on, so that any batch can be run by itself.
 */
export function fuzz(target: Target, options: FuzzOptions): FuzzResult {
  const { inputs, seed, batch } = options;
  const watch = { slowestMs: 0 };
  const property = fc.property(target.inputs, (input) => {
    options.onInput?.();
    const tookMs = timed(target, input, options.limitMs);
    watch.slowestMs = Math.max(watch.slowestMs, tookMs);
    if (tookMs <= options.limitMs) return;
    throw new Error(`The input took ${tookMs.toFixed(0)} ms; ${options.limitMs} ms are allowed.`);
  });
  const startMs = performance.now();
  let firstHeapBytes = Number.NaN;
  let done = 0;
  let failure: string | undefined;
  for (let part = 0; done < inputs && failure === undefined; part += 1) {
    const numRuns = Math.min(batch, inputs - done);
    options.onProgress?.(done, seed + part);
    const details = fc.check(property, { seed: seed + part, numRuns });
    done += details.numRuns;
    if (details.failed) failure = describe(target, seed + part, details);
    if (part === 0) firstHeapBytes = heapBytes();
  }
  return {
    inputs: done,
    elapsedMs: performance.now() - startMs,
    slowestMs: watch.slowestMs,
    heapGrowthBytes: heapBytes() - firstHeapBytes,
    failure,
  };
}

/**
 * How long an input takes, in milliseconds. The machine has other work: what was slow by the clock
 * is measured again, by the processor's time, when its code has become warm.
 */
function timed(target: Target, input: unknown, limitMs: number): number {
  const startMs = performance.now();
  target.check(input);
  let bestMs = performance.now() - startMs;
  for (let attempt = 0; attempt < 5 && bestMs > limitMs; attempt += 1) {
    const before = process.cpuUsage();
    target.check(input);
    const { user, system } = process.cpuUsage(before);
    bestMs = Math.min(bestMs, (user + system) / 1000);
  }
  return bestMs;
}

function describe(target: Target, seed: number, details: fc.RunDetails<[unknown]>): string {
  const { counterexamplePath, counterexample, errorInstance } = details;
  const error = errorInstance instanceof Error ? errorInstance : new Error(String(errorInstance));
  return [
    `${target.name} failed: --target ${target.name} --seed ${seed} (path ${counterexamplePath})`,
    `input: ${fc.stringify(counterexample?.[0]).slice(0, 4000)}`,
    `as text: ${readable(counterexample?.[0]).slice(0, 2000)}`,
    error.stack ?? error.message,
  ].join('\n');
}

function readable(input: unknown): string {
  return Buffer.isBuffer(input) ? JSON.stringify(input.toString('utf8')) : '-';
}

function heapBytes(): number {
  const collect = (globalThis as { gc?: () => void }).gc;
  if (!collect) return Number.NaN;
  collect();
  return process.memoryUsage().heapUsed;
}

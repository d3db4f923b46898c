import { appendFileSync } from 'node:fs';
import { monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks';

/*
 * Loaded into an agent before itself (`node --import`), or into any process to compare with. From
 * the first SIGUSR2 on it watches how late the event loop is; each further one appends a JSON line
 * to the file named by DROVER_PROBE and begins anew.
 */

/** Histograms hold the timer's own period too; it is taken off. */
const PERIOD_MS = 1;

/** How late the event loop was between two signals, in milliseconds. */
export interface LoopDelay {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
  /** The longest and all pauses for collecting garbage. */
  readonly gcMaxMs: number;
  readonly gcTotalMs: number;
  /** Share of the time in which the loop had something to do, 0 to 1. */
  readonly utilization: number;
}

/** Begins to watch; each call of the answer tells of the time since the one before. */
export function watchLoop(): () => LoopDelay {
  const histogram = monitorEventLoopDelay({ resolution: PERIOD_MS });
  histogram.enable();
  let since = performance.eventLoopUtilization();
  let pausesMs: number[] = [];
  const collections = new PerformanceObserver((list) => {
    pausesMs.push(...list.getEntries().map(({ duration }) => duration));
  });
  collections.observe({ entryTypes: ['gc'] });
  return () => {
    const late = (ns: number) => Math.max(0, ns / 1e6 - PERIOD_MS);
    const now = performance.eventLoopUtilization();
    const delay = {
      p50Ms: late(histogram.percentile(50)),
      p99Ms: late(histogram.percentile(99)),
      p999Ms: late(histogram.percentile(99.9)),
      maxMs: late(histogram.max),
      gcMaxMs: Math.max(0, ...pausesMs),
      gcTotalMs: pausesMs.reduce((sum, pauseMs) => sum + pauseMs, 0),
      utilization: performance.eventLoopUtilization(now, since).utilization,
    };
    since = now;
    pausesMs = [];
    histogram.reset();
    return delay;
  };
}

const file = process.env['DROVER_PROBE'];
if (file !== undefined) {
  let take: (() => LoopDelay) | undefined;
  process.on('SIGUSR2', () => {
    if (take) appendFileSync(file, `${JSON.stringify(take())}\n`);
    take ??= watchLoop();
  });
}

import type { Figures } from '../measure.js';
import type { Scenario } from '../scenarios.js';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

/**
 * What can be said of one turn, each as one number; NaN where it was not measured. Times are in
 * seconds or, with `Ms`, in milliseconds.
 */
export const METRICS = {
  totalS: ({ totalMs }) => totalMs / 1000,
  /** Of several guests the one that was silent longest. */
  gapMs: ({ gapMs }) => Math.max(...gapMs),
  longestMs: ({ longestMs }) => Math.max(...longestMs),
  wireRatio: ({ wireBytes, necessaryBytes }) => wireBytes / necessaryBytes,
  allocationRatio: ({ destinationAllocatedBytes, sourceAllocatedBytes }) =>
    destinationAllocatedBytes / sourceAllocatedBytes,
  /** Of both sides the one that took more. */
  cpuSPerGib: ({ service, necessaryBytes }) =>
    service
      ? Math.max(service.source.cpuS, service.destination.cpuS) / (necessaryBytes / GIB)
      : Number.NaN,
  rssMib: ({ service }) =>
    service
      ? Math.max(service.source.peakRssBytes, service.destination.peakRssBytes) / MIB
      : Number.NaN,
  diskRatio: ({ diskBefore, diskMoving }) =>
    diskBefore && diskMoving ? diskMoving.bytesPerS / diskBefore.bytesPerS : Number.NaN,
  diskP99Ms: ({ diskMoving }) => (diskMoving ? diskMoving.p99Us / 1000 : Number.NaN),
  diskP99BeforeMs: ({ diskBefore }) => (diskBefore ? diskBefore.p99Us / 1000 : Number.NaN),
  ramRatio: ({ ramBefore, ramMoving }) =>
    ramBefore && ramMoving ? ramMoving / ramBefore : Number.NaN,
  /** The time over what the link takes for the necessary bytes alone. */
  linkRatio: ({ totalMs, necessaryBytes }, { link }) =>
    totalMs / 1000 / ((necessaryBytes * 8) / link.bitsPerS),
} as const satisfies Record<string, (figures: Figures, scenario: Pick<Scenario, 'link'>) => number>;

export type Metric = keyof typeof METRICS;

/** How a metric is written, with its unit. */
export function showMetric(metric: Metric, value: number): string {
  if (Number.isNaN(value)) return '–';
  if (metric.endsWith('Ms')) return `${value.toFixed(0)} ms`;
  if (metric === 'totalS') return `${value.toFixed(2)} s`;
  if (metric === 'rssMib') return `${value.toFixed(0)} MiB`;
  if (metric === 'cpuSPerGib') return `${value.toFixed(2)} s`;
  return value.toFixed(3);
}

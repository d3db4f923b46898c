import type { QmpClient } from '../qmp/client.js';
import { diskDevice } from './names.js';

/** What a guest has written to one disk since its QEMU began. */
export interface DiskCounters {
  readonly writtenBytes: number;
  /** Writes and flushes that have ended. */
  readonly operations: number;
  /** How long all of them together took, in nanoseconds. */
  readonly waitedNs: number;
}

/** The counters of a guest's disks at a moment, by disk id. */
export interface DiskSample {
  readonly atMs: number;
  readonly disks: ReadonlyMap<string, DiskCounters>;
}

/** What a guest does to a disk, or to several of them, over some time. */
export interface DiskLoad {
  readonly bytesPerSecond: number;
  readonly operationsPerSecond: number;
  /** How long a write or a flush takes on average, in nanoseconds; 0 where there was none. */
  readonly latencyNs: number;
}

/** Reads what the guest has written so far to these disks. */
export async function sampleDisks(
  qmp: QmpClient,
  diskIds: readonly string[],
  options: { readonly signal?: AbortSignal; readonly limitMs: number },
): Promise<DiskSample> {
  const found = await qmp.execute('query-blockstats', {}, options);
  const atMs = performance.now();
  const disks = new Map<string, DiskCounters>();
  for (const diskId of diskIds) {
    const device = diskDevice(diskId);
    // A device is named by its id, or by its place in the tree of all objects.
    const entry = found.find(({ qdev }) => qdev?.split('/').includes(device));
    if (!entry) continue;
    const { stats } = entry;
    disks.set(diskId, {
      writtenBytes: stats.wr_bytes,
      operations: stats.wr_operations + stats.flush_operations,
      waitedNs: stats.wr_total_time_ns + stats.flush_total_time_ns,
    });
  }
  return { atMs, disks };
}

/** What the guest did to one disk between two samples; undefined where one of them lacks it. */
export function loadOf(
  diskId: string,
  earlier: DiskSample,
  later: DiskSample,
): DiskLoad | undefined {
  const [from, to] = [earlier.disks.get(diskId), later.disks.get(diskId)];
  if (!from || !to || later.atMs <= earlier.atMs) return undefined;
  return between(from, to, later.atMs - earlier.atMs);
}

/** What the guest did to all its disks together. */
export function totalLoad(earlier: DiskSample, later: DiskSample): DiskLoad | undefined {
  if (later.atMs <= earlier.atMs) return undefined;
  return between(sum(earlier), sum(later), later.atMs - earlier.atMs);
}

function sum({ disks }: DiskSample): DiskCounters {
  let total: DiskCounters = { writtenBytes: 0, operations: 0, waitedNs: 0 };
  for (const one of disks.values()) {
    total = {
      writtenBytes: total.writtenBytes + one.writtenBytes,
      operations: total.operations + one.operations,
      waitedNs: total.waitedNs + one.waitedNs,
    };
  }
  return total;
}

function between(from: DiskCounters, to: DiskCounters, ms: number): DiskLoad {
  const operations = to.operations - from.operations;
  return {
    bytesPerSecond: ((to.writtenBytes - from.writtenBytes) * 1000) / ms,
    operationsPerSecond: (operations * 1000) / ms,
    latencyNs: operations > 0 ? (to.waitedNs - from.waitedNs) / operations : 0,
  };
}

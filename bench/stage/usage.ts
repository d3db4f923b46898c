import {
  closeSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { processes } from './network.js';

/** The kernel counts the time of processes in hundredths of seconds. */
const TICKS_PER_S = 100;
const PAGE_BYTES = 4096;
const CHUNK_BYTES = 4 * 1024 ** 2;

/** CPU time that a process and its threads have taken so far, in seconds. */
export function cpuSeconds(pid: number): number {
  // The name, in brackets, may hold anything; user and system time are 12 and 13 fields after it.
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S;
}

/** Begins to measure anew what a process takes of memory at most. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** The most resident memory since `forgetPeak`, in bytes. */
export function peakBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) * 1024;
}

/** Pages of guest memory that are not all zeros, in bytes, as they are in QEMU's memory now. */
export function nonZeroMemoryBytes(qemuPid: number, memoryBytes: number): number {
  const begin = memoryAddress(qemuPid, memoryBytes);
  const file = openSync(`/proc/${qemuPid}/mem`, 'r');
  try {
    const zero = Buffer.alloc(PAGE_BYTES);
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let pages = 0;
    for (let done = 0; done < memoryBytes; done += CHUNK_BYTES) {
      readSync(file, chunk, 0, CHUNK_BYTES, begin + BigInt(done));
      for (let at = 0; at < CHUNK_BYTES; at += PAGE_BYTES) {
        if (chunk.compare(zero, 0, PAGE_BYTES, at, at + PAGE_BYTES) !== 0) pages++;
      }
    }
    return pages * PAGE_BYTES;
  } finally {
    closeSync(file);
  }
}

/** Guest memory is the smallest writable piece of QEMU's that has room for it. */
function memoryAddress(pid: number, memoryBytes: number): bigint {
  let found: { readonly begin: bigint; readonly size: bigint } | undefined;
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(\[heap\])?$/.exec(line);
    if (!match || match[3]) continue;
    const begin = BigInt(`0x${match[1]}`);
    const size = BigInt(`0x${match[2]}`) - begin;
    if (size >= BigInt(memoryBytes) && size < (found?.size ?? 2n ** 60n)) found = { begin, size };
  }
  if (!found) throw new Error('The memory of the guest is not where it was looked for.');
  return found.begin;
}

/** Data at the beginning of an image that is not all zeros, counted in pieces of 64 KiB. */
export function nonZeroImageBytes(path: string, bytes: number): number {
  const grain = 65_536;
  const file = openSync(path, 'r');
  try {
    const zero = Buffer.alloc(grain);
    const chunk = Buffer.alloc(grain);
    let grains = 0;
    for (let at = 0; at < bytes; at += grain) {
      const size = readSync(file, chunk, 0, grain, at);
      if (chunk.compare(zero, 0, size, 0, size) !== 0) grains++;
    }
    return grains * grain;
  } finally {
    closeSync(file);
  }
}

/** CPU time of all processes that are none of ours, by pid. */
export type Others = ReadonlyMap<number, number>;

/** Looks at every process that is in none of the networks given, and is not this one. */
export function lookAtOthers(networks: readonly string[]): Others {
  const own = networks.map((path) => readlinkSync(path));
  const others = new Map<number, number>();
  for (const pid of processes()) {
    if (pid === process.pid) continue;
    try {
      if (!own.includes(readlinkSync(`/proc/${pid}/ns/net`))) others.set(pid, cpuSeconds(pid));
    } catch {
      // It has gone, or is a thread of the kernel.
    }
  }
  return others;
}

/** CPU seconds that others took between two looks. */
export function foreignSeconds(before: Others, after: Others): number {
  let sum = 0;
  for (const [pid, seconds] of after) sum += seconds - (before.get(pid) ?? 0);
  return sum;
}

/** The storage that files take, in bytes. */
export function allocatedBytes(paths: readonly string[]): number {
  return paths.reduce((sum, path) => sum + statSync(path).blocks * 512, 0);
}

import { loadavg } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { MovedGuest, Mover } from './movers/mover.js';
import { type GuestPlan, MIB } from './stage/guest-plan.js';
import type { Ack } from './stage/guest-record.js';
import { HOST_NAMES, type HostName, type Network, otherHost } from './stage/network.js';
import {
  allocatedBytes,
  cpuSeconds,
  foreignSeconds,
  forgetPeak,
  lookAtOthers,
  nonZeroImageBytes,
  nonZeroMemoryBytes,
  peakBytes,
} from './stage/usage.js';

/** What one agent or libvirtd took during a move. */
export interface ServiceCost {
  readonly cpuS: number;
  readonly peakRssBytes: number;
}

/** How fast the guest's disks were. */
export interface DiskSpeed {
  readonly bytesPerS: number;
  readonly p99Us: number;
}

/** The figures of one move, or of several guests' moves that belong together. */
export interface Figures {
  /** From the request until the mover said that it is done, for the last guest. */
  readonly totalMs: number;
  /** By guest: between its last heartbeat on the source and the first on the destination. */
  readonly gapMs: readonly number[];
  /** By guest: its longest silence since the move began. */
  readonly longestMs: readonly number[];
  readonly wireBytes: number;
  /** Disk data that is not zero, in pieces of 64 KiB, and RAM pages that are not zero. */
  readonly necessaryBytes: number;
  readonly sourceAllocatedBytes: number;
  readonly destinationAllocatedBytes: number;
  readonly diskBefore: DiskSpeed | undefined;
  readonly diskMoving: DiskSpeed | undefined;
  /** RAM that the guest rewrote per second, in bytes; undefined where it does not. */
  readonly ramBefore: number | undefined;
  readonly ramMoving: number | undefined;
  readonly service: { readonly source: ServiceCost; readonly destination: ServiceCost } | undefined;
  /** The machine's load over the last minute. */
  readonly load: number;
  /** Cores that others than this bench were busy with meanwhile. */
  readonly foreignCores: number;
}

/** How guests are moved and what is watched. */
export interface MovePlan {
  readonly guest: GuestPlan;
  /** One after the other, or all at once. */
  readonly order: 'row' | 'together';
  /** How long guests are watched before the move, in milliseconds. */
  readonly baselineMs: number;
  readonly gentle: boolean;
}

/** What agents do after they said that it is done counts as well. */
const AFTERMATH_MS = 200;

/** Moves guests to the other host and measures. They all are on the same host, and work. */
export async function measureMove(
  network: Network,
  mover: Mover,
  guests: readonly MovedGuest[],
  plan: MovePlan,
): Promise<Figures> {
  const from = guests[0]?.host ?? 'alpha';
  const necessaryBytes = guests.reduce((sum, guest) => sum + necessaryOf(guest, plan.guest), 0);
  await delay(plan.baselineMs);
  const sourceAllocatedBytes = sumOf(guests, ({ imagePaths }) => allocatedBytes(imagePaths));
  const takeService = watchService(mover, from);
  const networks = HOST_NAMES.map((host) => network.namespace(host));
  const others = lookAtOthers(networks);
  const wireBefore = network.wireBytes;
  const beganMs = performance.now();
  const doneMs = await moveAll(guests, plan);
  const hearings = await Promise.all(
    guests.map((guest) => guest.record.moved(otherHost(from), beganMs)),
  );
  const foreign = foreignSeconds(others, lookAtOthers(networks));
  const spentS = (performance.now() - beganMs) / 1000;
  const wireBytes = network.wireBytes - wireBefore;
  await delay(AFTERMATH_MS);
  const acks = guests.flatMap(({ record }) => record.acks);
  const speed = (sinceMs: number, untilMs: number) =>
    diskSpeed(acks, plan.guest.writes.kib * 1024, sinceMs, untilMs);
  const rounds = guests.flatMap(({ record }) => record.ramRoundsMs);
  const ramSpeed = (sinceMs: number, untilMs: number) =>
    roundsPerS(rounds, sinceMs, untilMs) * (plan.guest.ram?.mib ?? 0) * MIB || undefined;
  const lastMs = Math.max(doneMs, ...hearings.map(({ arrivedMs }) => arrivedMs));
  return {
    totalMs: doneMs - beganMs,
    gapMs: hearings.map(({ switchMs }) => switchMs - plan.guest.beatMs),
    longestMs: hearings.map(({ longestMs }) => longestMs - plan.guest.beatMs),
    wireBytes,
    necessaryBytes,
    sourceAllocatedBytes,
    destinationAllocatedBytes: sumOf(guests, ({ imagePaths }) => allocatedBytes(imagePaths)),
    diskBefore: speed(beganMs - plan.baselineMs, beganMs),
    diskMoving: speed(beganMs, lastMs),
    ramBefore: ramSpeed(beganMs - plan.baselineMs, beganMs),
    ramMoving: ramSpeed(beganMs, lastMs),
    service: takeService(),
    load: loadavg()[0] ?? Number.NaN,
    foreignCores: foreign / spentS,
  };
}

async function moveAll(
  guests: readonly MovedGuest[],
  { order, gentle }: MovePlan,
): Promise<number> {
  if (order === 'together') {
    return Math.max(...(await Promise.all(guests.map((guest) => guest.move({ gentle })))));
  }
  let doneMs = Number.NaN;
  for (const guest of guests) doneMs = await guest.move({ gentle });
  return doneMs;
}

function necessaryOf(guest: MovedGuest, plan: GuestPlan): number {
  const ram = nonZeroMemoryBytes(guest.qemuPid, plan.memoryMib * MIB);
  // What the guest writes lies in front of what was there before.
  const written = guest.imagePaths.map((path) =>
    nonZeroImageBytes(path, 65_536 + plan.writes.spanMib * MIB),
  );
  const data = plan.disks.map(({ dataMib }) => dataMib * MIB);
  return [...written, ...data].reduce((sum, bytes) => sum + bytes, ram);
}

function watchService(mover: Mover, from: HostName): () => Figures['service'] {
  const pids = { source: mover.servicePids(from), destination: mover.servicePids(otherHost(from)) };
  if (pids.source.length === 0) return () => undefined;
  const before = new Map(
    [...pids.source, ...pids.destination].map((pid) => [pid, cpuSeconds(pid)] as const),
  );
  for (const pid of before.keys()) forgetPeak(pid);
  const costOf = (all: readonly number[]): ServiceCost => ({
    cpuS: sumOf(all, (pid) => cpuSeconds(pid) - (before.get(pid) ?? 0)),
    peakRssBytes: sumOf(all, peakBytes),
  });
  return () => ({ source: costOf(pids.source), destination: costOf(pids.destination) });
}

function diskSpeed(
  acks: readonly Ack[],
  bytesEach: number,
  sinceMs: number,
  untilMs: number,
): DiskSpeed | undefined {
  const latencies = acks
    .filter(({ atMs }) => atMs > sinceMs && atMs <= untilMs)
    .map(({ latencyUs }) => latencyUs)
    .sort((one, other) => one - other);
  if (latencies.length === 0 || untilMs <= sinceMs) return undefined;
  return {
    bytesPerS: (latencies.length * bytesEach * 1000) / (untilMs - sinceMs),
    p99Us: latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN,
  };
}

/** Rounds are few, so they are counted from the last one before to the last one within. */
function roundsPerS(roundsMs: readonly number[], sinceMs: number, untilMs: number): number {
  const before = roundsMs.findLast((atMs) => atMs <= sinceMs);
  const within = roundsMs.filter((atMs) => atMs > sinceMs && atMs <= untilMs);
  const last = within.at(-1);
  if (last === undefined || before === undefined) return 0;
  return (within.length * 1000) / (last - before);
}

function sumOf<Item>(items: readonly Item[], of: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0);
}

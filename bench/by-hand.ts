import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { EventClock } from '../src/domain/event-clock.js';
import { exportId, imageNode, mirrorJob, targetNode } from '../src/domain/names.js';
import type { QmpClient } from '../src/qmp/client.js';
import type { EventListener } from '../src/qmp/event-listener.js';
import {
  type HandWay,
  inetSocket,
  setUpRam,
  startDiskServer,
  TLS_CLIENT,
  unixSocket,
} from './hand-way.js';

/** One move to make by hand. */
export interface HandMoveRequest {
  /** Runs the guest. */
  readonly source: QmpClient;
  /** Started with `-S -incoming defer`, with empty images of the right sizes. */
  readonly destination: QmpClient;
  /** The disks to mirror; their block nodes have the names that Drover gives. */
  readonly diskIds: readonly string[];
  /** A folder for two sockets; with their names its path must fit into 107 bytes. */
  readonly directory: string;
  /** What QEMU may plan for, in milliseconds. */
  readonly downtimeLimitMs: number;
  /** Default: unix sockets, with the best options. */
  readonly way?: HandWay;
}

/** What a move by hand came to. */
export interface HandMove {
  /** From the first command until the guest ran on the destination, in milliseconds. */
  readonly totalMs: number;
  /** By the source's own count, in milliseconds. */
  readonly qemuDowntimeMs: number;
  /** From the guest's pause to the answer to `cont`, in milliseconds, in parts. */
  readonly parts: {
    readonly settle: number;
    readonly ram: number;
    readonly load: number;
    readonly resume: number;
  };
}

const LIMIT = { limitMs: 300_000 };
const ACTIVE_POLL_MS = 25;
const UNIX_WAY: HandWay = { options: 'best' };

type Wait = { readonly signal: AbortSignal };

/**
 * Moves a guest from QEMU to QEMU as fast as a careful hand at both monitors could, and no faster
 * than is safe: the floor that Drover is measured against. Disks and RAM go from QEMU to QEMU;
 * nothing is written down and nobody is asked.
 *
 * The source is left in `postmigrate`; to end both is the caller's.
 */
export async function moveByHand(request: HandMoveRequest): Promise<HandMove> {
  const { source, destination, diskIds, directory, way = UNIX_WAY } = request;
  const wait = { signal: AbortSignal.timeout(LIMIT.limitMs) };
  const clock = new EventClock();
  const beganMs = performance.now();
  using jobs = source.listen('BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED', 'JOB_STATUS_CHANGE');
  using sent = source.listen('MIGRATION');
  using stops = source.listen('STOP');
  using loaded = destination.listen('MIGRATION');

  await mirrorDisks(request, way, jobs, wait);
  const socket = way.network
    ? inetSocket(way.network.address, way.network.ramPort)
    : unixSocket(join(directory, 'ram.sock'));
  const ram = { 'channel-type': 'main', addr: { transport: 'socket', ...socket } } as const;
  await setUpRam(source, destination, way, request.downtimeLimitMs, wait);
  await destination.execute('migrate-incoming', { channels: [ram], 'exit-on-error': false });
  await source.execute('migrate', { channels: [ram] });
  await until(sent, 'pre-switchover', wait);
  const stopped = await stops.next(wait);
  const stoppedMs = clock.toClockUs(stopped.timestampUs) / 1000;

  await settleMirrors(source, diskIds, jobs, wait);
  const settledMs = performance.now();
  const arrived = until(loaded, 'completed', wait).then(() =>
    destination.execute('nbd-server-stop'),
  );
  arrived.catch(() => undefined);
  await source.execute('migrate-continue', { state: 'pre-switchover' });
  await until(sent, 'completed', wait);
  const completedMs = performance.now();
  await arrived;
  const loadedMs = performance.now();
  await destination.execute('cont');
  const resumedMs = performance.now();
  const { downtime } = await source.execute('query-migrate');
  return {
    totalMs: resumedMs - beganMs,
    qemuDowntimeMs: downtime ?? Number.NaN,
    parts: {
      settle: settledMs - stoppedMs,
      ram: completedMs - settledMs,
      load: loadedMs - completedMs,
      resume: resumedMs - loadedMs,
    },
  };
}

type JobEvents = EventListener<'BLOCK_JOB_READY' | 'BLOCK_JOB_COMPLETED' | 'JOB_STATUS_CHANGE'>;

/**
 * Resolves when both images of each disk are alike, and, with the best options, a write is
 * acknowledged to the guest only when both have it.
 */
async function mirrorDisks(
  { source, destination, diskIds, directory }: HandMoveRequest,
  way: HandWay,
  jobs: JobEvents,
  wait: Wait,
): Promise<void> {
  const path = join(directory, 'nbd.sock');
  await rm(path, { force: true });
  const socket = way.network
    ? inetSocket(way.network.address, way.network.diskPort)
    : unixSocket(path);
  await startDiskServer(source, destination, socket, way);
  const best = way.options === 'best';
  for (const disk of diskIds) {
    const node = imageNode(disk);
    await destination.execute('block-export-add', {
      ...{ type: 'nbd', id: exportId(disk), 'node-name': node, name: disk, writable: true },
    });
    await source.execute('blockdev-add', {
      ...{ driver: 'nbd', 'node-name': targetNode(disk), server: socket, export: disk },
      ...(way.network?.tls ? { 'tls-creds': TLS_CLIENT } : {}),
      ...(best ? { discard: 'unmap', 'detect-zeroes': 'unmap' } : {}),
    });
    await source.execute('blockdev-mirror', {
      ...{ 'job-id': mirrorJob(disk), device: node, target: targetNode(disk) },
      // The target is new and the image is all there is: what was never written need not be said.
      ...{ sync: best ? 'top' : 'full', 'copy-mode': 'background', 'auto-dismiss': false },
    });
  }
  for (const _ of diskIds) await jobs.next(({ name }) => name === 'BLOCK_JOB_READY', wait);
  if (!best) return;
  for (const disk of diskIds) {
    const change = { id: mirrorJob(disk), type: 'mirror', 'copy-mode': 'write-blocking' } as const;
    await source.execute('block-job-change', change);
  }
  for (;;) {
    const active = await source.execute('query-block-jobs');
    if (active.every((job) => job.type === 'mirror' && job['actively-synced'])) return;
    await delay(ACTIVE_POLL_MS, undefined, wait);
  }
}

/** Ends the mirrors with both images alike, and takes them apart. */
async function settleMirrors(
  source: QmpClient,
  diskIds: readonly string[],
  jobs: JobEvents,
  wait: Wait,
): Promise<void> {
  const all = (each: (disk: string) => Promise<unknown>) => Promise.all(diskIds.map(each));
  await all((disk) => source.execute('block-job-cancel', { device: mirrorJob(disk) }));
  for (let concluded = 0; concluded < diskIds.length; ) {
    const event = await jobs.next(({ name }) => name !== 'BLOCK_JOB_READY', wait);
    if (event.name === 'BLOCK_JOB_COMPLETED' && event.data.error) throw new Error(event.data.error);
    if (event.name === 'JOB_STATUS_CHANGE' && event.data.status === 'concluded') concluded++;
  }
  await Promise.all([
    all((disk) => source.execute('job-dismiss', { id: mirrorJob(disk) })),
    all((disk) => source.execute('blockdev-del', { 'node-name': targetNode(disk) })),
  ]);
}

async function until(
  events: EventListener<'MIGRATION'>,
  wanted: 'pre-switchover' | 'completed',
  wait: Wait,
): Promise<void> {
  for (;;) {
    const { status } = (await events.next(wait)).data;
    if (status === wanted) return;
    if (status === 'failed' || status === 'cancelled') throw new Error(`The RAM stream ${status}.`);
  }
}

import { setTimeout as delay } from 'node:timers/promises';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpError, QmpTimeoutError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import type { JobStatus } from '../qmp/types.gen.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { Mirror } from './mirror.js';
import { PARKED_BYTES_PER_S } from './mirror-order.js';
import { PSK_OBJECT } from './names.js';
import { isLive } from './resume-source.js';
import { untilAnswered } from './until-answered.js';
import { yankStalled } from './yank.js';

const STEP = { limitMs: STEP_LIMIT_MS };

/** A job ends within this time in milliseconds, or its connection stalls. */
const END = { limitMs: 2_000 };

/** Nobody waits longer than this for what the next migration would remove anyway. */
const REMOVAL_LIMIT_MS = 60_000;

/** What a parked job has on its way gets there within this time, or is waited for by all. */
const REST_LIMIT_MS = 5_000;
const REST_LOOK_MS = 100;

const READY: readonly JobStatus[] = ['ready', 'standby'];
/** All others are on their way to the end, or there already. */
const CANCELLABLE: readonly JobStatus[] = ['created', 'running', 'paused', ...READY];

/** What to remove; a job whose way of writing is not known may be write-blocking. */
export type Leftover = Pick<Mirror, 'job' | 'target'> & Partial<Pick<Mirror, 'writeBlocking'>>;

/**
 * Removes the jobs, target nodes and key of mirrors, as far as QEMU has them, whatever state they
 * are in. A step that stalls gets its connection cut, and a QEMU that does not answer at all is
 * asked again for a minute. Never throws: a QEMU that is gone has nothing left, all else is
 * reported.
 */
export async function removeMirrors(
  process: QemuProcess,
  mirrors: readonly Leftover[],
  report: ReportProblem,
): Promise<void> {
  const limit = { limitMs: REMOVAL_LIMIT_MS };
  const remove = (qmp: QmpClient, problems: ReportProblem) => tryToRemove(qmp, mirrors, problems);
  await untilAnswered(process, report, remove, limit);
}

/**
 * The same, once; answers false where QEMU did not answer. `keepKey`: another mirror needs the key.
 *
 * @throws QmpClosedError
 */
export async function tryToRemove(
  qmp: QmpClient,
  mirrors: readonly Leftover[],
  report: ReportProblem,
  { keepKey = false } = {},
): Promise<boolean> {
  using changes = qmp.listen('JOB_STATUS_CHANGE');
  const nodes = mirrors.map(({ target }) => target);
  let answered = true;
  const attempt = async <T>(step: string, work: () => Promise<T>): Promise<T | undefined> => {
    if (!answered) return undefined;
    try {
      return await retriedAfterYank(qmp, nodes, work);
    } catch (error) {
      if (error instanceof QmpClosedError) throw error;
      if (error instanceof QmpTimeoutError) answered = false;
      report(step, error);
      return undefined;
    }
  };
  const jobs = await attempt('list the jobs', () => qmp.execute('query-jobs', {}, STEP));
  await Promise.all(
    (jobs ?? [])
      .map(({ id, status }) => ({ id, status, mirror: mirrors.find(({ job }) => job === id) }))
      .map(async ({ id, status, mirror }) => {
        if (!mirror) return;
        if (status !== 'concluded') {
          await attempt(`end ${id}`, () => endJob(qmp, changes, mirror));
        }
        await attempt(`dismiss ${id}`, () => qmp.execute('job-dismiss', { id }, STEP));
      }),
  );
  const found = await attempt('list the block nodes', () =>
    qmp.execute('query-named-block-nodes', { flat: true }, STEP),
  );
  for (const { 'node-name': node } of found ?? []) {
    if (node === undefined || !nodes.includes(node)) continue;
    await attempt(`remove ${node}`, () => qmp.execute('blockdev-del', { 'node-name': node }, STEP));
  }
  if (keepKey) return answered;
  const objects = await attempt('list the objects', () =>
    qmp.execute('qom-list', { path: '/objects' }, STEP),
  );
  if (objects?.some(({ name }) => name === PSK_OBJECT)) {
    await attempt('remove the key', () => qmp.execute('object-del', { id: PSK_OBJECT }, STEP));
  }
  return answered;
}

/**
 * Ends a job. A ready mirror is asked to finish instead of being forced: QEMU 10.0 frees what a
 * guest's write that is on its way to both images still uses when a write-blocking mirror is forced
 * to end, and dies of it with the guest. One that cannot finish, because an I/O error has stopped
 * it or because it is not ready, is forced while the guest stands still for a moment, when no write
 * is on its way.
 */
async function endJob(
  qmp: QmpClient,
  changes: EventListener<'JOB_STATUS_CHANGE'>,
  { job: id, writeBlocking }: Leftover,
): Promise<void> {
  const job = (await qmp.execute('query-jobs', {}, STEP)).find((each) => each.id === id);
  if (!job || job.status === 'concluded') return;
  if (await isStoppedByError(qmp, id)) {
    await forceWithoutWrites(qmp, id);
  } else if (READY.includes(job.status)) {
    await cancel(qmp, id, { force: false });
  } else if (CANCELLABLE.includes(job.status)) {
    if (writeBlocking === false) await cancel(qmp, id, { force: true });
    else await forceAtRest(qmp, id);
  }
  const signal = new AbortController().signal;
  await changes.next((event) => event.data.id === id && event.data.status === 'concluded', {
    signal,
    ...END,
  });
}

async function cancel(qmp: QmpClient, id: string, how: { readonly force: boolean }) {
  await qmp.execute('block-job-cancel', { device: id, ...how }, END).catch(unlessRefused);
}

/**
 * The same as `forceWithoutWrites` for a job that copies. The guest would stand still until all
 * that the job has on its way were there, so the job comes to rest first.
 */
async function forceAtRest(qmp: QmpClient, id: string): Promise<void> {
  const park = { device: id, speed: PARKED_BYTES_PER_S };
  await qmp.execute('block-job-set-speed', park, STEP).catch(unlessRefused);
  const limit = performance.now() + REST_LIMIT_MS;
  for (let before = -1; performance.now() < limit; ) {
    const jobs = await qmp.execute('query-block-jobs', {}, STEP);
    const offset = jobs.find(({ device }) => device === id)?.offset ?? before;
    if (offset === before) break;
    before = offset;
    await delay(REST_LOOK_MS);
  }
  await forceWithoutWrites(qmp, id);
}

async function isStoppedByError(qmp: QmpClient, id: string): Promise<boolean> {
  const jobs = await qmp.execute('query-block-jobs', {}, STEP);
  return jobs.some((job) => job.device === id && job['io-status'] !== 'ok');
}

/**
 * QEMU takes the commands in this order, even when nobody is there any more to hear the answers.
 */
async function forceWithoutWrites(qmp: QmpClient, id: string): Promise<void> {
  const { status } = await qmp.execute('query-status', {}, STEP);
  const live = isLive(status);
  const answers = await Promise.allSettled([
    ...(live ? [qmp.execute('stop', {}, STEP)] : []),
    cancel(qmp, id, { force: true }),
    ...(live ? [qmp.execute('cont', {}, STEP)] : []),
  ]);
  for (const answer of answers) if (answer.status === 'rejected') throw answer.reason;
}

/**
 * A peer that neither answers nor closes can hold a step up; cutting the connection lets it go on.
 */
async function retriedAfterYank<T>(
  qmp: QmpClient,
  nodes: readonly string[],
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof QmpTimeoutError)) throw error;
    await yankStalled(qmp, { nodes, migration: false });
    return await work();
  }
}

/** QEMU refuses to cancel a job that has ended meanwhile; its last event has come then. */
function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

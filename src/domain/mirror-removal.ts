import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpTimeoutError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { Mirror } from './mirror.js';
import { PSK_OBJECT } from './names.js';
import { yankStalled } from './yank.js';

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * Removes the jobs, target nodes and key of mirrors, as far as QEMU has them, whatever state they are in. A step that
 * stalls gets its connection cut. Never throws: a QEMU that is gone has nothing left, all else is reported.
 */
export async function removeMirrors(
  qmp: QmpClient,
  mirrors: readonly Pick<Mirror, 'job' | 'target'>[],
  report: ReportProblem,
): Promise<void> {
  using changes = qmp.listen('JOB_STATUS_CHANGE');
  const nodes = mirrors.map(({ target }) => target);
  const attempt = async <T>(step: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await retriedAfterYank(qmp, nodes, work);
    } catch (error) {
      if (!(error instanceof QmpClosedError)) report(step, error);
      return undefined;
    }
  };
  const jobs = await attempt('list the jobs', () => qmp.execute('query-jobs', {}, STEP));
  await Promise.all(
    (jobs ?? [])
      .filter(({ id }) => mirrors.some(({ job }) => job === id))
      .map(async ({ id, status }) => {
        if (status !== 'concluded') {
          await attempt(`cancel ${id}`, () => cancelJob(qmp, changes, id));
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
  const objects = await attempt('list the objects', () =>
    qmp.execute('qom-list', { path: '/objects' }, STEP),
  );
  if (objects?.some(({ name }) => name === PSK_OBJECT)) {
    await attempt('remove the key', () => qmp.execute('object-del', { id: PSK_OBJECT }, STEP));
  }
}

async function cancelJob(
  qmp: QmpClient,
  changes: EventListener<'JOB_STATUS_CHANGE'>,
  id: string,
): Promise<void> {
  const job = (await qmp.execute('query-jobs', {}, STEP)).find((each) => each.id === id);
  if (!job || job.status === 'concluded') return;
  await qmp.execute('block-job-cancel', { device: id, force: true }, STEP);
  const signal = new AbortController().signal;
  await changes.next((event) => event.data.id === id && event.data.status === 'concluded', {
    signal,
    ...STEP,
  });
}

/** A peer that neither answers nor closes can hold a step up; cutting the connection lets it go on. */
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

import { expect } from 'vitest';
import type { Pair } from '../qmp-pair.js';
import { andWaitFor } from './behaviour.js';

/** Ends a ready mirror in success and removes what belonged to it. */
export async function settleMirror(pair: Pair): Promise<void> {
  const { qmp } = pair.source;
  await andWaitFor(pair, pair.source, 'JOB_STATUS_CHANGE', 'concluded', () =>
    qmp.execute('block-job-cancel', { device: 'mirror0' }),
  );
  expect(await qmp.execute('query-jobs')).toMatchObject([{ id: 'mirror0', status: 'concluded' }]);
  await qmp.execute('job-dismiss', { id: 'mirror0' });
  await qmp.execute('blockdev-del', { 'node-name': 'target0' });
  await qmp.execute('object-del', { id: 'tls0' });
}

/** Lets a migration go on that waits before the switchover, to its end on both sides. */
export async function finishMigration(pair: Pair): Promise<void> {
  using loaded = pair.destination.qmp.listen('MIGRATION');
  await andWaitFor(pair, pair.source, 'MIGRATION', 'completed', () =>
    pair.source.qmp.execute('migrate-continue', { state: 'pre-switchover' }),
  );
  await loaded.next((event) => event.data.status === 'completed', { signal: pair.signal });
}

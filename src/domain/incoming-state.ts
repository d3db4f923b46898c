import type { QmpClient } from '../qmp/client.js';
import type { MigrationStatus } from '../qmp/types.gen.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { WaitOptions } from './types.js';

/** See IncomingDomain. */
export type IncomingState = 'waiting' | 'loaded' | 'running' | 'gone';

/** An incoming migration in one of these will never load its guest. */
const ENDED: readonly (MigrationStatus | undefined)[] = ['failed', 'cancelled', 'completed'];

/**
 * What an incoming QEMU does, as it says itself. `lost`: what it waits for came through an earlier
 * life of the agent, so that it is as good as gone unless it has everything. One whose RAM comes
 * from QEMU to QEMU waits until it has all of it.
 */
export async function observeIncoming(
  qmp: QmpClient,
  lost: boolean,
  options: WaitOptions,
): Promise<IncomingState> {
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  const [{ status: guest }, { status: migration = 'none' }] = await Promise.all([
    qmp.execute('query-status', {}, step),
    qmp.execute('query-migrate', {}, step),
  ]);
  if (guest === 'inmigrate') return lost || ENDED.includes(migration) ? 'gone' : 'waiting';
  // Any other state is the guest's own doing, and it must have run for that.
  const stands = guest === 'paused' || guest === 'prelaunch';
  if (!stands) return 'running';
  return migration === 'completed' ? 'loaded' : 'gone';
}

import type { QmpClient } from '../qmp/client.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { WaitOptions } from './types.js';

/** See IncomingDomain. */
export type IncomingState = 'waiting' | 'loaded' | 'running' | 'gone';

/**
 * What an incoming QEMU does, as it says itself. One whose RAM had begun to come is as good as
 * gone, because the agent that carried the bytes is.
 */
export async function observeIncoming(
  qmp: QmpClient,
  options: WaitOptions,
): Promise<IncomingState> {
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  const [{ status: guest }, { status: migration = 'none' }] = await Promise.all([
    qmp.execute('query-status', {}, step),
    qmp.execute('query-migrate', {}, step),
  ]);
  if (guest === 'inmigrate') {
    return migration === 'none' || migration === 'setup' ? 'waiting' : 'gone';
  }
  // Any other state is the guest's own doing, and it must have run for that.
  const stands = guest === 'paused' || guest === 'prelaunch';
  if (!stands) return 'running';
  return migration === 'completed' ? 'loaded' : 'gone';
}

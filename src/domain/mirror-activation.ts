import { setTimeout as delay } from 'node:timers/promises';
import type { QmpClient } from '../qmp/client.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { Mirror } from './mirror.js';
import type { WaitOptions } from './types.js';

/** How often QEMU is asked at most whether the mirrors are active, in milliseconds. */
const ACTIVE_POLL_MS = 25;

const STEP = { limitMs: STEP_LIMIT_MS };

/** Makes a mirror write-blocking: the guest's writes wait for both images from now on. */
export async function blockMirror(
  qmp: QmpClient,
  mirror: Mirror,
  options: WaitOptions,
): Promise<void> {
  // QEMU may do it though its answer never comes.
  mirror.block();
  const change = { id: mirror.job, type: 'mirror', 'copy-mode': 'write-blocking' } as const;
  await qmp.execute('block-job-change', change, { ...STEP, ...options });
}

/**
 * Makes ready mirrors write-blocking and resolves when all are active, which `observe` tells. With
 * the guest paused for the switchover it changes nothing: nothing is written any more, and settling
 * copies what is left.
 */
export async function activateMirrors(
  qmp: QmpClient,
  mirrors: readonly Mirror[],
  observe: () => Promise<boolean>,
  options: WaitOptions,
): Promise<void> {
  const { status } = await qmp.execute('query-status', {}, { ...STEP, ...options });
  if (status === 'finish-migrate') return;
  await Promise.all(mirrors.map((mirror) => activate(qmp, mirror, options)));
  for (let pauseMs = 1; !(await observe()); pauseMs *= 2) {
    await delay(Math.min(pauseMs, ACTIVE_POLL_MS), undefined, options);
  }
}

/**
 * A ready job that has nothing to do sleeps for a tenth of a second, and notices only then that it
 * is active. Setting its speed, which does not matter to it any more, wakes it.
 */
async function activate(qmp: QmpClient, mirror: Mirror, options: WaitOptions): Promise<void> {
  const wake = { device: mirror.job, speed: 0 };
  await Promise.all([
    blockMirror(qmp, mirror, options),
    qmp.execute('block-job-set-speed', wake, { ...STEP, ...options }),
  ]);
}

import type { QmpClient } from '../qmp/client.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { SourceGuard, WaitOptions } from './types.js';

/** What QEMU does not tell afterwards. */
export interface GuardMemory {
  /** Jobs that must be gone. */
  readonly jobs: readonly string[];
  /** True where every one of them ended without error. */
  readonly settled: boolean;
  /** True where the guest has run since its pause. */
  resumed(): boolean;
}

/** Reads in one go what giving the guest up depends on. */
export async function readGuard(
  qmp: QmpClient,
  memory: GuardMemory,
  options: WaitOptions,
): Promise<SourceGuard> {
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  const [migration, { status }, jobs] = await Promise.all([
    qmp.execute('query-migrate', {}, step),
    qmp.execute('query-status', {}, step),
    qmp.execute('query-block-jobs', {}, step),
  ]);
  const completed = migration.status === 'completed' && status === 'postmigrate';
  return {
    fenced: completed && !memory.resumed(),
    settled: memory.settled && !jobs.some(({ device }) => memory.jobs.includes(device)),
  };
}

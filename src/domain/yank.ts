import type { QmpClient } from '../qmp/client.js';
import { QmpTimeoutError } from '../qmp/errors.js';
import { DomainError } from './errors.js';
import type { ReportProblem } from './faults.js';

/** What to cut: connections of these block nodes, and that of the migration stream. */
export interface YankWish {
  readonly nodes: readonly string[];
  readonly migration: boolean;
}

/** Out-of-band commands are answered at once or never. */
const YANK_LIMIT_MS = 2_000;

/**
 * Cuts network connections of QEMU out of band: the way out when a peer that neither answers nor
 * closes keeps QEMU's main loop waiting. Only what QEMU knows of is named, because it refuses the
 * whole request otherwise.
 */
export async function yankStalled(qmp: QmpClient, wish: YankWish): Promise<void> {
  const limit = { limitMs: YANK_LIMIT_MS };
  const known = await qmp.executeOob('query-yank', {}, limit);
  const instances = known.filter((instance) => {
    if (instance.type === 'migration') return wish.migration;
    return instance.type === 'block-node' && wish.nodes.includes(instance['node-name']);
  });
  if (instances.length > 0) await qmp.executeOob('yank', { instances }, limit);
}

/**
 * Does a step of the switchover. When it takes too long, what QEMU may be waiting for is cut before
 * the error goes on, so that the undo finds a QEMU that answers.
 */
export async function breakingStall<T>(
  step: Promise<T>,
  cut: () => Promise<void>,
  report: ReportProblem,
): Promise<T> {
  try {
    return await step;
  } catch (error) {
    const stalled = error instanceof DomainError && error.reason === 'STALLED';
    if (stalled || error instanceof QmpTimeoutError) {
      await cut().catch((problem) => report('cut what QEMU waits for', problem));
    }
    throw error;
  }
}

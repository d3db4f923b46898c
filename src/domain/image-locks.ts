import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import { STEP_LIMIT_MS } from './faults.js';

/**
 * Activates block nodes of a QEMU whose guest does not run, so that it holds the locks of their
 * images. QEMU before 10.0 cannot, and nothing happens: only `cont` activates images there.
 */
export async function activateImages(
  qmp: QmpClient,
  nodes: readonly string[],
  options: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  try {
    await Promise.all(
      nodes.map((node) =>
        qmp.execute('blockdev-set-active', { 'node-name': node, active: true }, step),
      ),
    );
  } catch (error) {
    if (!(error instanceof QmpError) || error.errorClass !== 'CommandNotFound') throw error;
  }
}

import type { QmpClient } from '../qmp/client.js';

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

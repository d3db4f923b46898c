import type { QmpClient } from '../qmp/client.js';
import type { BlockJobInfo, BlockNodeInfo } from '../qmp/types.gen.js';
import type { DiskServerAddress } from './launch-spec.js';
import type { Mirror } from './mirror.js';
import { isGoing } from './outgoing-state.js';
import type { WaitOptions } from './types.js';

/** What QEMU has of the mirrors that are wanted. */
export interface FoundMirrors {
  /** Those that must be started. */
  readonly stale: readonly Mirror[];
  /** The speeds of those that run, in bytes per second, by disk id. */
  readonly speeds: ReadonlyMap<string, number>;
  /** True for an image of which nothing that is not allocated needs to be copied. */
  isSparse(mirror: Mirror): boolean;
}

/** Looks for mirrors that an earlier life of the agent has started, and takes their figures. */
export async function findMirrors(
  qmp: QmpClient,
  mirrors: readonly Mirror[],
  { server, fresh }: { readonly server: DiskServerAddress; readonly fresh: boolean },
  options: WaitOptions,
): Promise<FoundMirrors> {
  const [jobs, nodes] = await Promise.all([
    qmp.execute('query-block-jobs', {}, options),
    qmp.execute('query-named-block-nodes', { flat: true }, options),
  ]);
  const speeds = new Map<string, number>();
  const stale = mirrors.filter((mirror) => {
    const job = jobs.find(({ device }) => device === mirror.job);
    if (!isOwn(mirror, job, nodes, server)) return true;
    mirror.adopt();
    mirror.observe(job.len, job.offset, job.ready);
    speeds.set(mirror.diskId, job.speed);
    return false;
  });
  // Both images must read as zeros where nothing is allocated: the other one because it is new.
  const isSparse = ({ image }: Mirror): boolean => {
    const node = nodes.find((found) => found['node-name'] === image);
    return fresh && node !== undefined && node.backing_file === undefined;
  };
  return { stale, speeds, isSparse };
}

/**
 * The export's name is new for every disk server: a job that writes to it is this migration's own.
 * A stream ends with the agent that carried it.
 */
function isOwn(
  mirror: Mirror,
  job: BlockJobInfo | undefined,
  nodes: readonly BlockNodeInfo[],
  { transport }: DiskServerAddress,
): job is BlockJobInfo {
  const node = nodes.find((found) => found['node-name'] === mirror.target);
  return transport === 'direct' && !!node?.file.endsWith(mirror.exportName) && isGoing(job);
}

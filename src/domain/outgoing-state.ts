import type { QmpClient } from '../qmp/client.js';
import type { BlockJobInfo, JobStatus } from '../qmp/types.gen.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import { STEP_LIMIT_MS } from './faults.js';
import { mirrorJob } from './names.js';
import type { OutgoingState, WaitOptions } from './types.js';

/** A mirror in one of these copies, or follows the guest's writes. */
const GOING: readonly JobStatus[] = ['created', 'running', 'paused', 'ready', 'standby'];

/** True for a mirror job that goes on without having met an error. */
export function isGoing(job: BlockJobInfo | undefined): job is BlockJobInfo {
  if (job?.type !== 'mirror' || job.error !== undefined) return false;
  return job['io-status'] === 'ok' && GOING.includes(job.status);
}

/** The disks of a domain that a migration mirrors. */
export function mirroredDisks({ disks }: DomainSpec): readonly string[] {
  return disks.filter((disk) => !disk.readOnly && !disk.shared).map(({ id }) => id);
}

/** Asks the QEMU of a domain that was leaving how far it has come. */
export async function observeOutgoing(
  qmp: QmpClient,
  spec: DomainSpec,
  options: WaitOptions,
): Promise<OutgoingState> {
  const step = { limitMs: STEP_LIMIT_MS, ...options };
  const [{ status }, jobs] = await Promise.all([
    qmp.execute('query-status', {}, step),
    qmp.execute('query-block-jobs', {}, step),
  ]);
  const mirrored = mirroredDisks(spec).every((diskId) =>
    isGoing(jobs.find(({ device }) => device === mirrorJob(diskId))),
  );
  if (status === 'postmigrate') return { qemu: 'completed', mirrored };
  return { qemu: status === 'finish-migrate' ? 'switching' : 'running', mirrored };
}

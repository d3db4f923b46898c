import { lstat } from 'node:fs/promises';
import type { DiskSpec, DomainSpec } from '../spec/domain-spec.js';
import { quote } from '../spec/fields.js';
import type { Definition } from './definitions.js';
import { fileSha256, kernelSha256 } from './digests.js';
import type { HostResources } from './host-resources.js';
import type { ImageWish } from './images.js';
import { checkIncomingData } from './incoming-data.js';
import type { LaunchDisk, LaunchSpec } from './launch-spec.js';
import { roomFor } from './pools.js';
import type { Refusals } from './refusals.js';
import { checkRequirements } from './requirements.js';
import type { IncomingRequest, WaitOptions } from './types.js';

/** An incoming domain that this host can take. */
export interface IncomingPlan {
  /** What would be this host's. */
  readonly definition: Definition;
  readonly wishes: readonly ImageWish[];
}

/**
 * Checks a launch spec, which comes from another host and is trusted in nothing, against itself and
 * against this host. Nothing is made yet.
 *
 * @throws DomainError with everything that is wrong, what was in `refusals` before included
 */
export async function planIncoming(
  request: IncomingRequest,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<IncomingPlan> {
  const { launchSpec, migrationId, epoch, generation } = request;
  const { host } = resources.settings;
  const what = `${host} cannot take the domain ${quote(launchSpec.spec.name)}`;
  const spec = checkIncomingData(launchSpec, refusals);
  // Without a sound spec there is nothing to compare with this host.
  if (!spec) throw refusals.error(what, 'destination');
  await checkRequirements(spec, resources, refusals, options);
  checkCpuModel(launchSpec, resources, refusals);
  await checkKernel(launchSpec, resources, refusals, options);
  const wishes: ImageWish[] = [];
  for (const [index, disk] of spec.disks.entries()) {
    const reported = launchSpec.disks[index];
    const pool = resources.pools.find(({ name }) => name === disk.pool);
    if (!reported || !pool) continue;
    if (reported.mirrored) {
      const { id: diskId, format } = disk;
      const image = { uuid: spec.uuid, diskId, format, sizeBytes: reported.sizeBytes };
      wishes.push({ pool, image, from: undefined, roomBytes: roomFor(reported.allocatedBytes) });
    } else {
      await checkPresent(disk, index, reported, spec, resources, refusals, options);
    }
  }
  for (const pool of new Set(wishes.map((wish) => wish.pool))) {
    if (!(await pool.hasDomain(spec.uuid))) continue;
    const message = `the pool ${pool.name} of ${host} holds images of ${spec.uuid} already`;
    refusals.add('DOMAIN_EXISTS', 'uuid', message, { pool: pool.name });
  }
  const {
    cpuModel: model,
    cpuFeatures: features,
    cpuProperties: properties,
    pciSlots,
  } = launchSpec;
  return {
    definition: {
      spec,
      cpu: { model, features, properties },
      pciSlots,
      kernelSha256: launchSpec.kernelSha256,
      ownerHost: host,
      epoch,
      generation,
      arrivedBy: migrationId,
      process: undefined,
      taps: [],
    },
    wishes,
  };
}

/** A model that this QEMU does not list is not even given to it. */
function checkCpuModel({ cpuModel }: LaunchSpec, resources: HostResources, refusals: Refusals) {
  const { binary, host } = resources.settings;
  if (!binary.facts || binary.facts.cpuModels.has(cpuModel)) return;
  const message = `the QEMU of ${host} has no CPU model ${quote(cpuModel)}`;
  refusals.add('CPU_FEATURE_MISSING', 'cpu', message);
}

async function checkKernel(
  launchSpec: LaunchSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<void> {
  const { host, kernels } = resources.settings;
  const kernel = kernels.find(({ name }) => name === launchSpec.spec.kernel);
  if (!kernel) return;
  // QEMU needs the files again when the guest reboots, and refuses other sizes at once.
  const sha256 = await kernelSha256(kernel, options).catch(() => '');
  if (sha256 === launchSpec.kernelSha256) return;
  const message = `${host} has another version of the kernel ${kernel.name}`;
  refusals.add('MEDIA_MISSING', 'kernel', message, { kernel: kernel.name });
}

/**
 * Disks that are not mirrored must be here already: catalogue images with the same contents, shared
 * images at all.
 */
async function checkPresent(
  disk: DiskSpec,
  index: number,
  reported: LaunchDisk,
  spec: DomainSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<void> {
  const { host } = resources.settings;
  const subject = `disks[${index}]`;
  const pool = resources.pools.find(({ name }) => name === disk.pool);
  const location = await resources.locate(spec.uuid, disk, options).catch(() => undefined);
  // A missing catalogue image is among the requirements, and told already.
  if (!location) return;
  if (!disk.readOnly) {
    if (await lstat(location.path).catch(() => undefined)) return;
    const message = `the shared pool ${disk.pool} of ${host} does not show the image of ${disk.id}`;
    refusals.add('MEDIA_MISSING', subject, message, { pool: disk.pool });
    return;
  }
  // Only a shared pool is the same one over there; it is checked to be that.
  if (disk.shared && pool?.shared) return;
  if ((await fileSha256(location.path, options)) === reported.imageSha256) return;
  const message = `images/${disk.image} in the pool ${disk.pool} of ${host} has other contents`;
  refusals.add('MEDIA_MISSING', subject, message, { pool: disk.pool, image: disk.image });
}

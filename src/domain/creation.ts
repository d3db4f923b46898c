import { randomBytes, randomUUID } from 'node:crypto';
import { ProcessError } from '../process/errors.js';
import { QmpError } from '../qmp/errors.js';
import type { DiskSpec, DomainSpec } from '../spec/domain-spec.js';
import type { Definition, FixedCpu } from './definitions.js';
import { kernelSha256 } from './digests.js';
import { fixCpu } from './fixed-cpu.js';
import type { HostResources } from './host-resources.js';
import type { ImageWish } from './images.js';
import { assignPciSlots } from './pci-slots.js';
import { type CatalogueImage, roomFor } from './pools.js';
import type { Refusals } from './refusals.js';
import { checkRequirements, findMachine } from './requirements.js';
import type { WaitOptions } from './types.js';

/** A domain that can be created: everything that its spec left open is fixed. */
export interface Creation {
  readonly definition: Definition;
  readonly wishes: readonly ImageWish[];
}

/**
 * Checks a spec against the host and fixes what it leaves open: UUID, machine version, CPU
 * features, MAC addresses, sizes, PCI slots. Nothing is made yet.
 *
 * @throws DomainError with everything that is wrong, what was in `refusals` before included
 */
export async function planCreation(
  spec: DomainSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<Creation> {
  await checkRequirements(spec, resources, refusals, options);
  const uuid = spec.uuid || randomUUID();
  const disks: DiskSpec[] = [];
  const wishes: ImageWish[] = [];
  for (const [index, disk] of spec.disks.entries()) {
    const from = await findImage(disk, index, resources, refusals, options);
    const fixed = { ...disk, sizeBytes: disk.sizeBytes || (from?.sizeBytes ?? 0) };
    disks.push(fixed);
    if (!disk.readOnly) wishes.push(...imageWish(uuid, fixed, from, resources));
  }
  const machine = findMachine(spec.machine, resources)?.name ?? spec.machine;
  const cpu = await expandCpu({ ...spec, machine }, resources, refusals, options);
  refusals.throwIfAny(`The domain ${spec.name} cannot be created on ${resources.settings.host}`);
  const kernel = spec.kernel === '' ? undefined : resources.kernel(spec.kernel);
  const fixed: DomainSpec = {
    ...spec,
    uuid,
    machine,
    disks,
    // A kernel of the same name may have other arguments elsewhere; the guest keeps those of its
    // creation.
    kernelArguments: [kernel?.arguments, spec.kernelArguments].filter(Boolean).join(' '),
    nics: spec.nics.map((nic) => ({ ...nic, mac: nic.mac || randomMac() })),
  };
  return {
    definition: {
      spec: fixed,
      cpu: cpu as FixedCpu,
      pciSlots: assignPciSlots(fixed),
      kernelSha256: kernel ? await kernelSha256(kernel, options) : '',
      ownerHost: resources.settings.host,
      epoch: 1,
      generation: 1,
      arrivedBy: '',
      process: undefined,
      taps: [],
    },
    wishes,
  };
}

async function findImage(
  disk: DiskSpec,
  index: number,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<CatalogueImage | undefined> {
  const { image, imageFormat } = disk;
  const pool = resources.pools.find(({ name }) => name === disk.pool);
  if (image === '' || imageFormat === '' || !pool) return undefined;
  // What is wrong with a read-only disk's image is among the requirements, which are checked at
  // every start.
  const quiet = disk.readOnly
    ? pool.catalogueImage(image, imageFormat, options).catch(() => undefined)
    : undefined;
  if (quiet) return quiet;
  return refusals.check(`disks[${index}].image`, async () => {
    const from = await pool.catalogueImage(image, imageFormat, options);
    if (disk.sizeBytes > 0 && disk.sizeBytes < from.sizeBytes) {
      const message = `the image of ${disk.id} has ${from.sizeBytes} bytes, more than the disk`;
      refusals.add('SPEC_INVALID', `disks[${index}].sizeBytes`, message);
    }
    return from;
  });
}

function imageWish(
  uuid: string,
  { id: diskId, format, sizeBytes, ...disk }: DiskSpec,
  from: CatalogueImage | undefined,
  { pools }: HostResources,
): ImageWish[] {
  const pool = pools.find(({ name }) => name === disk.pool);
  if (!pool) return [];
  const roomBytes = roomFor(from?.allocatedBytes ?? 0);
  return [{ pool, image: { uuid, diskId, format, sizeBytes }, from, roomBytes }];
}

async function expandCpu(
  { cpu: model, machine, accelerator }: DomainSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<FixedCpu | undefined> {
  const { binary, host } = resources.settings;
  if (binary.problems.length > 0 || !findMachine(machine, resources)) return undefined;
  try {
    return fixCpu(await binary.expandCpu({ model, machine, accelerator }, options));
  } catch (error) {
    options.signal.throwIfAborted();
    if (!(error instanceof ProcessError || error instanceof QmpError)) throw error;
    const message = `the QEMU of ${host} cannot give the CPU model ${model} with ${accelerator}`;
    refusals.add('SPEC_INVALID', 'cpu', message, { cpu: model });
    return undefined;
  }
}

/** A MAC address of the range that QEMU's interfaces have by custom. */
function randomMac(): string {
  const tail = [...randomBytes(3)].map((byte) => byte.toString(16).padStart(2, '0'));
  return ['52', '54', '00', ...tail].join(':');
}

import type { QemuProcess } from '../process/qemu-process.js';
import type { BlockInfo, BlockNodeInfo } from '../qmp/types.gen.js';
import type { DiskSpec, DomainSpec } from '../spec/domain-spec.js';
import type { Violation } from '../util/reasoned-error.js';
import type { Definition } from './definitions.js';
import { fileSha256 } from './digests.js';
import { DomainError } from './errors.js';
import type { LaunchDisk, LaunchSpec } from './launch-spec.js';
import { diskDevice, fileNode, nicDevice, SERIAL_DEVICE } from './names.js';
import type { WaitOptions } from './types.js';

/**
 * A device of QEMU as its block layer names it: by id, or by the path of the device or of its back
 * end.
 */
const QDEV_PATH = /^\/machine\/peripheral\/([^/]+)(\/virtio-backend)?$/;

/**
 * Describes a running QEMU: the definition says what it was started as, and QEMU itself what it is
 * now. Where the two differ the domain cannot be moved, because the twin would be another machine.
 *
 * @throws DomainError `QEMU_BLOCKER`, `QEMU_DEVICE_UNKNOWN`, `DISK_SIZE_MISMATCH`; all violations
 * at once
 */
export async function discoverLaunchSpec(
  process: QemuProcess,
  definition: Definition,
  options: WaitOptions,
): Promise<LaunchSpec> {
  const { qmp } = process;
  const { spec, cpu, pciSlots, kernelSha256 } = definition;
  const [blocks, nodes, devices, nameless, migration, memory, cpus] = await Promise.all([
    qmp.execute('query-block', {}, options),
    qmp.execute('query-named-block-nodes', { flat: true }, options),
    qmp.execute('qom-list', { path: '/machine/peripheral' }, options),
    qmp.execute('qom-list', { path: '/machine/peripheral-anon' }, options),
    qmp.execute('query-migrate', {}, options),
    qmp.execute('query-memory-size-summary', {}, options),
    qmp.execute('query-cpus-fast', {}, options),
  ]);
  const isChild = ({ type }: { readonly type: string }) => type.startsWith('child<');
  const foundDevices = [...devices, ...nameless].filter(isChild).map(({ name }) => name);
  const violations = [
    ...blockers(migration['blocked-reasons'] ?? []),
    ...unknownDevices(definition, blocks, foundDevices),
    ...sizeChanges(spec, memory['base-memory'] + (memory['plugged-memory'] ?? 0), cpus.length),
    ...spec.disks.flatMap((disk) => diskChanges(disk, findBlock(blocks, disk))),
  ];
  if (violations[0]) {
    throw new DomainError(
      violations[0].reason,
      `The domain ${spec.name} cannot be moved: ${violations.map(({ message }) => message).join(' ')}`,
      { side: 'source', violations },
    );
  }
  const disks = spec.disks.map((disk) => describeDisk(disk, blocks, nodes, options));
  return {
    spec,
    cpuModel: cpu.model,
    cpuFeatures: cpu.features,
    cpuProperties: cpu.properties,
    pciSlots,
    kernelSha256,
    qemuVersion: Object.values(qmp.greeting.version).join('.'),
    disks: await Promise.all(disks),
  };
}

async function describeDisk(
  disk: DiskSpec,
  blocks: readonly BlockInfo[],
  nodes: readonly BlockNodeInfo[],
  options: WaitOptions,
): Promise<LaunchDisk> {
  const image = findBlock(blocks, disk)?.inserted?.image;
  const file = nodes.find((node) => node['node-name'] === fileNode(disk.id))?.file;
  return {
    diskId: disk.id,
    sizeBytes: image?.['virtual-size'] ?? 0,
    allocatedBytes: image?.['actual-size'] ?? 0,
    mirrored: !disk.readOnly && !disk.shared,
    imageSha256:
      disk.readOnly && !disk.shared && file !== undefined ? await fileSha256(file, options) : '',
  };
}

function findBlock(blocks: readonly BlockInfo[], disk: DiskSpec): BlockInfo | undefined {
  return blocks.find((block) => deviceOf(block) === diskDevice(disk.id));
}

function deviceOf({ qdev = '' }: BlockInfo): string {
  return QDEV_PATH.exec(qdev)?.[1] ?? qdev;
}

function blockers(reasons: readonly string[]): Violation[] {
  return reasons.map((text) => ({
    reason: 'QEMU_BLOCKER',
    subject: 'qemu',
    message: `QEMU says: ${text}.`,
  }));
}

/** Devices that somebody plugged in, and disks that are no device's. */
function unknownDevices(
  { spec, pciSlots }: Definition,
  blocks: readonly BlockInfo[],
  found: readonly string[],
): Violation[] {
  const known = new Set([
    ...Object.keys(pciSlots),
    ...spec.disks.map(({ id }) => diskDevice(id)),
    ...spec.nics.map(({ id }) => nicDevice(id)),
    ...(spec.serial ? [SERIAL_DEVICE] : []),
  ]);
  const unknown = new Set([...found, ...blocks.map(deviceOf)].filter((id) => !known.has(id)));
  return [...unknown].map((id) => ({
    reason: 'QEMU_DEVICE_UNKNOWN',
    subject: id,
    message: `It has the device "${id}", which is not in its spec.`,
  }));
}

function sizeChanges(spec: DomainSpec, memoryBytes: number, vcpus: number): Violation[] {
  const violations: Violation[] = [];
  if (memoryBytes !== spec.memoryBytes) {
    violations.push({
      reason: 'QEMU_DEVICE_UNKNOWN',
      subject: 'memory',
      message: `It has ${memoryBytes} bytes of memory, its spec says ${spec.memoryBytes}.`,
    });
  }
  if (vcpus !== spec.vcpus) {
    violations.push({
      reason: 'QEMU_DEVICE_UNKNOWN',
      subject: 'vcpus',
      message: `It has ${vcpus} vCPUs, its spec says ${spec.vcpus}.`,
    });
  }
  return violations;
}

function diskChanges(disk: DiskSpec, block: BlockInfo | undefined): Violation[] {
  const inserted = block?.inserted;
  const subject = `disks.${disk.id}`;
  if (!inserted) {
    return [
      { reason: 'QEMU_DEVICE_UNKNOWN', subject, message: `The disk "${disk.id}" is not there.` },
    ];
  }
  const sizeBytes = inserted.image['virtual-size'];
  if (disk.sizeBytes !== 0 && sizeBytes !== disk.sizeBytes) {
    return [
      {
        reason: 'DISK_SIZE_MISMATCH',
        subject,
        message: `The disk "${disk.id}" has ${sizeBytes} bytes, its spec says ${disk.sizeBytes}.`,
      },
    ];
  }
  if (inserted.ro !== disk.readOnly) {
    const how = inserted.ro ? 'read-only' : 'writable';
    return [
      {
        reason: 'QEMU_DEVICE_UNKNOWN',
        subject,
        message: `The disk "${disk.id}" is ${how}, its spec says otherwise.`,
      },
    ];
  }
  return [];
}

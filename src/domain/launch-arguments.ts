import { isPcMachine } from '../spec/domain-rules.js';
import type { DiskSpec, DomainSpec, NicSpec } from '../spec/domain-spec.js';
import type { FixedCpu } from './definitions.js';
import { DomainError } from './errors.js';
import { cpuArgument } from './fixed-cpu.js';
import {
  BALLOON_DEVICE,
  diskDevice,
  fileNode,
  imageNode,
  netdev,
  nicDevice,
  RNG_DEVICE,
  SCSI_CONTROLLER,
  SERIAL_DEVICE,
} from './names.js';
import type { ImageLocation } from './pools.js';

/** Everything of a QEMU that is the same on both hosts. */
export interface LaunchPlan {
  readonly spec: DomainSpec;
  readonly cpu: FixedCpu;
  readonly pciSlots: Readonly<Record<string, number>>;
}

/** Everything of a QEMU that each host chooses for itself. */
export interface LaunchPlaces {
  /** By disk id. */
  readonly images: Readonly<Record<string, ImageLocation>>;
  readonly kernel: { readonly path: string; readonly initrdPath: string | undefined } | undefined;
  /** The file or socket of the serial console. */
  readonly serialPath: string;
  /** Names of taps by network interface id. */
  readonly taps: Readonly<Record<string, string>>;
}

/** How QEMU starts: with the guest stopped, always; a twin waits for `migrate-incoming` besides. */
export type LaunchMode = 'stopped' | 'incoming';

/**
 * Renders a QEMU command line, without what QemuProcess adds for every QEMU. Nothing in it comes
 * from another host verbatim: specs have been checked, paths are this host's. Devices and block
 * nodes are JSON, so that no value can become an option.
 */
export function launchArguments(
  plan: LaunchPlan,
  places: LaunchPlaces,
  mode: LaunchMode,
): readonly string[] {
  const { spec } = plan;
  return [
    '-S',
    ...(mode === 'incoming' ? ['-incoming', 'defer'] : []),
    // A core dump would hold the guest's memory.
    ...['-machine', `${spec.machine},accel=${spec.accelerator},dump-guest-core=off`],
    ...['-cpu', cpuArgument(plan.cpu)],
    ...['-m', `size=${spec.memoryBytes / 1024 ** 2}M`],
    ...['-smp', `cpus=${spec.vcpus}`],
    ...['-rtc', 'base=utc'],
    ...['-boot', 'strict=on'],
    ...kernelArguments(spec, places),
    ...serialArguments(spec, places),
    ...diskArguments(plan, places),
    ...spec.nics.flatMap((nic) => nicArguments(nic, plan, places)),
    ...rngArguments(plan),
    ...balloonArguments(plan),
  ];
}

function kernelArguments(
  { kernelArguments: text }: DomainSpec,
  { kernel }: LaunchPlaces,
): string[] {
  if (!kernel) return [];
  return [
    ...['-kernel', kernel.path],
    ...(kernel.initrdPath === undefined ? [] : ['-initrd', kernel.initrdPath]),
    ...(text === '' ? [] : ['-append', text]),
  ];
}

function serialArguments({ serial }: DomainSpec, places: LaunchPlaces): string[] {
  if (!serial) return [];
  const path = places.serialPath.replaceAll(',', ',,');
  const backend =
    serial.type === 'file'
      ? `file,id=${SERIAL_DEVICE},path=${path},append=on`
      : `socket,id=${SERIAL_DEVICE},path=${path},server=on,wait=off`;
  return [
    ...['-chardev', backend],
    ...device({ driver: 'isa-serial', id: SERIAL_DEVICE, chardev: SERIAL_DEVICE }),
  ];
}

function diskArguments(plan: LaunchPlan, places: LaunchPlaces): string[] {
  const { disks } = plan.spec;
  const controller = disks.some(({ bus }) => bus === 'virtio-scsi')
    ? device({
        driver: 'virtio-scsi-pci',
        id: SCSI_CONTROLLER,
        ...pciAddress(SCSI_CONTROLLER, plan),
      })
    : [];
  return [
    ...disks.flatMap((disk) => blockNodes(disk, places.images[disk.id])),
    ...controller,
    ...disks.flatMap((disk, index) => diskDeviceArguments(disk, index, plan)),
  ];
}

/**
 * The two block nodes of a disk. Formats are said, never probed: the guest writes the first bytes
 * of a raw image.
 */
function blockNodes(disk: DiskSpec, image: ImageLocation | undefined): string[] {
  if (!image) throw new DomainError('INTERNAL', `The disk ${disk.id} has no image.`);
  const common = {
    'read-only': disk.readOnly,
    'auto-read-only': false,
    cache: { direct: disk.cache === 'none' || disk.cache === 'directsync', 'no-flush': false },
    discard: disk.discard ? 'unmap' : 'ignore',
  };
  const file = {
    driver: image.driver,
    'node-name': fileNode(disk.id),
    filename: image.path,
    aio: 'threads',
    locking: 'auto',
    ...common,
  };
  const format = {
    driver: image.format,
    'node-name': imageNode(disk.id),
    file: fileNode(disk.id),
    // Whatever an image's header says, no other file of the host is opened for it.
    ...(image.format === 'qcow2' ? { backing: null } : {}),
    ...common,
    'detect-zeroes': disk.discard && !disk.readOnly ? 'unmap' : 'off',
  };
  return ['-blockdev', JSON.stringify(file), '-blockdev', JSON.stringify(format)];
}

function diskDeviceArguments(disk: DiskSpec, index: number, plan: LaunchPlan): string[] {
  const { spec } = plan;
  const id = diskDevice(disk.id);
  const writeThrough = disk.cache === 'writethrough' || disk.cache === 'directsync';
  const common = {
    id,
    drive: imageNode(disk.id),
    serial: disk.serial,
    // Index 0 is the kernel's, where QEMU loads one.
    bootindex: index + (spec.kernel === '' ? 0 : 1),
    'write-cache': writeThrough ? 'off' : 'on',
  };
  const before = spec.disks.slice(0, index).filter(({ bus }) => bus === disk.bus).length;
  switch (disk.bus) {
    case 'virtio-blk':
      return device({
        driver: 'virtio-blk-pci',
        ...common,
        ...pciAddress(id, plan),
        discard: disk.discard,
        'write-zeroes': disk.discard,
      });
    case 'virtio-scsi':
      return device({
        driver: 'scsi-hd',
        ...common,
        bus: `${SCSI_CONTROLLER}.0`,
        channel: 0,
        'scsi-id': before,
        lun: 0,
      });
    case 'ide':
      return device({
        driver: 'ide-hd',
        ...common,
        bus: `ide.${before >> 1}`,
        unit: before & 1,
      });
  }
}

function nicArguments(nic: NicSpec, plan: LaunchPlan, places: LaunchPlaces): string[] {
  const id = nicDevice(nic.id);
  const tap = places.taps[nic.id];
  if (nic.type === 'tap' && tap === undefined) {
    throw new DomainError('INTERNAL', `The network interface ${nic.id} has no tap.`);
  }
  const backend =
    nic.type === 'tap'
      ? { type: 'tap', id: netdev(nic.id), ifname: tap, script: 'no', downscript: 'no' }
      : { type: 'user', id: netdev(nic.id) };
  return [
    ...['-netdev', JSON.stringify(backend)],
    ...device({
      driver: nic.model === 'e1000' ? 'e1000' : 'virtio-net-pci',
      id,
      netdev: netdev(nic.id),
      mac: nic.mac,
      ...pciAddress(id, plan),
      // No boot ROM: a file of the host that both sides would need in the same version.
      romfile: '',
    }),
  ];
}

function rngArguments(plan: LaunchPlan): string[] {
  if (!plan.spec.rng) return [];
  const source = `${RNG_DEVICE}-source`;
  return [
    ...[
      '-object',
      JSON.stringify({ 'qom-type': 'rng-random', id: source, filename: '/dev/urandom' }),
    ],
    ...device({
      driver: 'virtio-rng-pci',
      id: RNG_DEVICE,
      rng: source,
      ...pciAddress(RNG_DEVICE, plan),
    }),
  ];
}

function balloonArguments(plan: LaunchPlan): string[] {
  if (!plan.spec.balloon) return [];
  return device({
    driver: 'virtio-balloon-pci',
    id: BALLOON_DEVICE,
    ...pciAddress(BALLOON_DEVICE, plan),
  });
}

function pciAddress(id: string, plan: LaunchPlan): { bus: string; addr: string } {
  const slot = plan.pciSlots[id];
  if (slot === undefined) throw new DomainError('INTERNAL', `The device ${id} has no PCI slot.`);
  const bus = isPcMachine(plan.spec.machine) ? 'pci.0' : 'pcie.0';
  return { bus, addr: `0x${slot.toString(16)}` };
}

function device(properties: Readonly<Record<string, unknown>>): string[] {
  return ['-device', JSON.stringify(properties)];
}

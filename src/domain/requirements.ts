import type { DomainSpec } from '../spec/domain-spec.js';
import type { HostResources } from './host-resources.js';
import type { Refusals } from './refusals.js';
import type { WaitOptions } from './types.js';

/**
 * Checks what a spec needs of a host before anything is made for it: QEMU, machine type,
 * accelerator, kernel, pools, catalogue images and bridges. Room and memory are reserved by whoever
 * goes on.
 */
export async function checkRequirements(
  spec: DomainSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<void> {
  checkQemu(resources, refusals);
  checkMachine(spec, resources, refusals);
  const { system, host } = resources.settings;
  if (spec.accelerator === 'kvm' && !(await system.kvmUsable())) {
    refusals.add(
      'CPU_FEATURE_MISSING',
      'accelerator',
      `${host} cannot use KVM: /dev/kvm is not there or may not be opened`,
    );
  } else await refusals.check('accelerator', () => resources.users.groupFor(spec));
  if (spec.kernel !== '') await refusals.check('kernel', () => checkKernel(spec, resources));
  await checkDisks(spec, resources, refusals, options);
  await checkNetworks(spec, resources, refusals);
}

/**
 * The machine type that a name of a spec stands for on this host; undefined where QEMU knows none.
 */
export function findMachine(name: string, resources: HostResources) {
  const machines = resources.settings.binary.facts?.machines ?? [];
  return machines.find((machine) => machine.name === name || machine.alias === name);
}

async function checkKernel(spec: DomainSpec, resources: HostResources): Promise<void> {
  const { path, initrdPath } = resources.kernel(spec.kernel);
  await resources.users.assertReadable(spec, path);
  if (initrdPath !== undefined) await resources.users.assertReadable(spec, initrdPath);
}

function checkQemu(resources: HostResources, refusals: Refusals): void {
  const { binary, host } = resources.settings;
  for (const { code, message } of binary.problems) {
    const reason = code === 'QEMU_UNUSABLE' ? 'QEMU_MISSING' : code;
    refusals.add(reason, 'qemu', `${host}: ${message.replace(/\.$/, '')}`);
  }
}

function checkMachine(spec: DomainSpec, resources: HostResources, refusals: Refusals): void {
  const { binary, host } = resources.settings;
  // Without facts QEMU itself is what is wrong, and told already.
  if (!binary.facts) return;
  const machine = findMachine(spec.machine, resources);
  if (!machine) {
    const message = `the QEMU of ${host} has no machine type ${spec.machine}`;
    refusals.add('MACHINE_TYPE_UNKNOWN', 'machine', message, { machine: spec.machine });
  } else if (spec.vcpus > machine.maxVcpus) {
    const message = `${machine.name} takes at most ${machine.maxVcpus} virtual CPUs`;
    refusals.add('SPEC_INVALID', 'vcpus', message);
  }
}

/** A domain may come from another host, and must not reach what nobody here meant it to. */
async function checkNetworks(
  { nics }: DomainSpec,
  { settings }: HostResources,
  refusals: Refusals,
): Promise<void> {
  const { host, networks, system } = settings;
  for (const [index, { type, bridge }] of nics.entries()) {
    if (type === 'user') {
      if (networks.user) continue;
      const message = `${host} offers no networks of type user`;
      refusals.add('NETWORK_NOT_OFFERED', `nics[${index}].type`, message);
    } else if (!networks.bridges.includes(bridge)) {
      const message = `${host} does not offer the bridge ${bridge}`;
      refusals.add('NETWORK_NOT_OFFERED', `nics[${index}].bridge`, message, { bridge });
    } else if (!(await system.bridgeExists(bridge))) {
      const message = `${host} has no bridge ${bridge}`;
      refusals.add('BRIDGE_MISSING', `nics[${index}].bridge`, message, { bridge });
    }
  }
}

async function checkDisks(
  spec: DomainSpec,
  resources: HostResources,
  refusals: Refusals,
  options: WaitOptions,
): Promise<void> {
  for (const [index, disk] of spec.disks.entries()) {
    const subject = `disks[${index}]`;
    const pool = await refusals.check(`${subject}.pool`, () => resources.pool(disk.pool));
    if (!pool) continue;
    if (!disk.readOnly && disk.shared !== pool.shared) {
      const { host } = resources.settings;
      const is = (shared: boolean) => (shared ? 'is' : 'is not');
      const poolSays = `its pool ${pool.name} ${is(pool.shared)} on ${host}`;
      const message = `the disk ${disk.id} ${is(disk.shared)} shared, and ${poolSays}`;
      refusals.add('DISK_SHARED', `${subject}.shared`, message, { pool: pool.name });
    }
    const direct = disk.cache === 'none' || disk.cache === 'directsync';
    if (direct && !pool.directIo) {
      const message = `the pool ${pool.name} has no direct I/O, which cache ${disk.cache} needs`;
      refusals.add(
        'SPEC_INVALID',
        `${subject}.cache`,
        `${message}; use writeback or writethrough`,
        { pool: pool.name },
      );
    }
    if (disk.readOnly) {
      await refusals.check(`${subject}.image`, async () => {
        const image = await pool.catalogueImage(disk.image, disk.format, options);
        await resources.users.assertReadable(spec, image.path);
        const { sizeBytes } = image;
        if (disk.sizeBytes === 0 || disk.sizeBytes === sizeBytes) return;
        const message = `images/${disk.image} has ${sizeBytes} bytes, not ${disk.sizeBytes}`;
        refusals.add('DISK_SIZE_MISMATCH', `${subject}.sizeBytes`, message);
      });
    }
  }
}

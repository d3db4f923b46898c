import { describe, expect, it } from 'vitest';
import type { FixedCpu } from '../../../src/domain/definitions.js';
import { cpuArgument, fixCpu } from '../../../src/domain/fixed-cpu.js';
import {
  type LaunchMode,
  type LaunchPlaces,
  launchArguments,
} from '../../../src/domain/launch-arguments.js';
import { assignPciSlots } from '../../../src/domain/pci-slots.js';
import { type DomainSpec, parseDomainSpec } from '../../../src/spec/domain-spec.js';

const MIB = 1024 ** 2;

const cpu: FixedCpu = {
  model: 'base',
  features: { sse2: true, svm: false },
  properties: { vendor: 'AuthenticAMD', 'model-id': 'QEMU Virtual CPU version 2.5+' },
};

function render(
  spec: DomainSpec,
  places: Partial<LaunchPlaces> = {},
  mode: LaunchMode = 'stopped',
) {
  const images = Object.fromEntries(
    spec.disks.map(({ id, format, readOnly }) => [
      id,
      { driver: 'file' as const, path: `/pools/${readOnly ? 'images' : 'own'}/${id}`, format },
    ]),
  );
  const plan = { spec, cpu, pciSlots: assignPciSlots(spec) };
  const all = { images, kernel: undefined, serialPath: '', taps: {}, ...places };
  return launchArguments(plan, all, mode);
}

/** One option with its value a line, as people compare them. */
function lines(argv: readonly string[]): string {
  return `${argv.join('\n').replaceAll(/\n(?!-)/g, ' ')}\n`;
}

const everything = parseDomainSpec({
  name: 'all',
  uuid: 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6',
  memoryBytes: 256 * MIB,
  vcpus: 2,
  machine: 'pc-i440fx-10.0',
  accelerator: 'tcg',
  kernel: 'linux',
  kernelArguments: 'console=ttyS0, quiet',
  disks: [
    { id: 'root', sizeBytes: MIB },
    { id: 'ide0', sizeBytes: MIB, bus: 'ide', cache: 'writethrough', format: 'qcow2' },
    { id: 'scsi-a', sizeBytes: MIB, bus: 'virtio-scsi', cache: 'directsync', discard: false },
    { id: 'ide1', sizeBytes: MIB, bus: 'ide', cache: 'writeback', serial: 'SN-1' },
    { id: 'ide2', sizeBytes: MIB, bus: 'ide' },
    { id: 'tools', bus: 'virtio-scsi', image: 'tools.qcow2', readOnly: true },
  ],
  nics: [
    { id: 'lan', mac: '52:54:00:00:00:01' },
    { id: 'wan', mac: '52:54:00:00:00:02', type: 'tap', bridge: 'br0', model: 'e1000' },
  ],
  serial: { type: 'socket' },
  rng: true,
  balloon: true,
});

describe('the arguments of QEMU', () => {
  it('hold everything that a spec can say', async () => {
    const argv = render(everything, {
      kernel: { path: '/boot/vmlinuz', initrdPath: '/boot/initrd' },
      serialPath: '/run/a,b/serial.sock',
      taps: { wan: 'drv0123456789' },
    });
    await expect(lines(argv)).toMatchFileSnapshot('golden/everything.txt');
  });

  it('are few for the least spec', async () => {
    const spec = parseDomainSpec({
      name: 'least',
      uuid: 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6',
      memoryBytes: 16 * MIB,
      machine: 'pc-q35-10.0',
      accelerator: 'kvm',
      disks: [{ id: 'root', sizeBytes: MIB }],
      serial: { type: 'file' },
    });
    const argv = render(spec, { serialPath: '/state/serial.log' });
    await expect(lines(argv)).toMatchFileSnapshot('golden/least.txt');
  });

  it('differ for the twin only in that it waits for its guest', () => {
    const source = render(everything, { taps: { wan: 't' } });
    const twin = render(everything, { taps: { wan: 't' } }, 'incoming');
    expect(twin).toEqual(['-S', '-incoming', 'defer', ...source.slice(1)]);
  });

  it('never start the guest, probe a format, or hold a shell', () => {
    const argv = render(everything, { taps: { wan: 't' } });
    expect(argv[0]).toBe('-S');
    const nodes = argv.filter((_, index) => argv[index - 1] === '-blockdev');
    expect(nodes).toHaveLength(2 * everything.disks.length);
    for (const node of nodes) {
      expect(JSON.parse(node)).toMatchObject({
        driver: expect.stringMatching(/^(file|raw|qcow2)$/),
        'auto-read-only': false,
      });
    }
    const tap = argv.find((argument) => argument.includes('"tap"'));
    expect(JSON.parse(tap ?? '')).toMatchObject({ script: 'no', downscript: 'no' });
  });
});

describe('PCI slots', () => {
  it('are given in a fixed order, from 2 on', () => {
    expect(assignPciSlots(everything)).toEqual({
      scsi0: 2,
      'disk-root': 3,
      'nic-lan': 4,
      'nic-wan': 5,
      rng0: 6,
      balloon0: 7,
    });
  });
});

describe('a fixed CPU', () => {
  it('keeps what an expansion gave, and is said to QEMU in one order', () => {
    const fixed = fixCpu({
      model: 'base',
      properties: { family: 6, lm: true, 'model-id': 'A, B', vendor: 'GenuineIntel' },
    });
    expect(fixed).toEqual({
      model: 'base',
      features: { lm: true },
      properties: { family: '6', 'model-id': 'A  B', vendor: 'GenuineIntel' },
    });
    expect(cpuArgument(fixed)).toBe(
      'base,family=6,lm=on,model-id=A  B,vendor=GenuineIntel,enforce',
    );
  });

  it.each([
    [{ ...cpu, model: 'base,kvm=on' }],
    [{ ...cpu, model: '' }],
    [{ ...cpu, features: { 'a=on,b': true } }],
    [{ ...cpu, properties: { vendor: 'a,host-cache-info=on' } }],
    [{ ...cpu, properties: { vendor: 'a\nb' } }],
  ])('is refused where a part could become an option: %j', (bad) => {
    expect(() => cpuArgument(bad)).toThrow(expect.objectContaining({ reason: 'REQUEST_INVALID' }));
  });
});

import { describe, expect, it } from 'vitest';
import { DomainSpec as WireSpec } from '../../../src/gen/drover/v1/domain.js';
import { checkDomainSpec, parseDomainSpec } from '../../../src/spec/domain-spec.js';

const MIB = 1024 ** 2;
const least = { name: 'web1', memoryBytes: 64 * MIB, accelerator: 'tcg' };

/** The violations of a spec, as "subject: message without the subject". */
function wrong(change: object): readonly string[] {
  return checkDomainSpec({ ...least, ...change }).violations.map(({ message }) => message);
}

/** The same for one disk. */
function wrongDisk(disk: object, change: object = {}): readonly string[] {
  return wrong({ ...change, disks: [{ id: 'a', sizeBytes: MIB, ...disk }] });
}

describe('a domain spec', () => {
  it('gets every default that the wire documents', () => {
    const spec = parseDomainSpec({
      ...least,
      disks: [{ id: 'root', sizeBytes: MIB }],
      nics: [{ id: 'lan' }],
    });
    expect(spec).toEqual({
      name: 'web1',
      uuid: '',
      memoryBytes: 64 * MIB,
      vcpus: 1,
      cpu: 'qemu64',
      machine: 'q35',
      accelerator: 'tcg',
      kernel: '',
      kernelArguments: '',
      disks: [
        {
          id: 'root',
          pool: 'default',
          sizeBytes: MIB,
          image: '',
          imageFormat: '',
          format: 'raw',
          bus: 'virtio-blk',
          cache: 'none',
          discard: true,
          readOnly: false,
          shared: false,
          serial: 'root',
        },
      ],
      nics: [{ id: 'lan', type: 'user', bridge: '', mac: '', model: 'virtio-net' }],
      serial: undefined,
      rng: false,
      balloon: false,
    });
  });

  it('reads a message of the wire as it is decoded, and its own output again', () => {
    const message = WireSpec.fromPartial({
      ...least,
      disks: [{ id: 'root', sizeBytes: MIB, image: 'debian.qcow2' }],
      serial: { type: 'socket' },
    });
    const decoded = WireSpec.decode(WireSpec.encode(message).finish());
    const spec = parseDomainSpec(decoded);
    expect(spec.disks[0]).toMatchObject({ discard: true, imageFormat: 'qcow2', format: 'raw' });
    expect(parseDomainSpec(spec)).toEqual(spec);
  });

  it('refuses what a newer protocol may have said, instead of dropping it', () => {
    const newer = { ...least, _unknownFields: { [(99 << 3) | 2]: [] } };
    expect(checkDomainSpec(newer).violations).toMatchObject([
      { reason: 'SPEC_INVALID', message: expect.stringContaining('field 99') },
    ]);
  });

  it('tells everything that is wrong at once', () => {
    const { violations } = checkDomainSpec({
      name: '1st',
      memoryBytes: MIB,
      disks: [
        { id: 'a', sizeBytes: 100, bus: 'ide' },
        { id: 'a', bus: 'nvme' },
      ],
      nics: [{ id: 'lan', bridge: 'br0' }],
      kernelArguments: 'quiet',
    });
    expect(violations.map(({ reason, subject }) => [reason, subject])).toEqual([
      ['SPEC_INVALID', 'name'],
      ['SPEC_INVALID', 'memoryBytes'],
      ['SPEC_INVALID', 'accelerator'],
      ['SPEC_INVALID', 'disks[0].sizeBytes'],
      ['QEMU_DEVICE_UNKNOWN', 'disks[1].bus'],
      ['SPEC_INVALID', 'disks[1].id'],
      ['SPEC_INVALID', 'disks[1].sizeBytes'],
      ['SPEC_INVALID', 'disks[0].bus'],
      ['SPEC_INVALID', 'nics[0].bridge'],
      ['SPEC_INVALID', 'kernelArguments'],
    ]);
    expect(() => parseDomainSpec({})).toThrow(
      expect.objectContaining({ reason: 'SPEC_INVALID', violations: expect.any(Array) }),
    );
  });

  it.each([
    [null],
    [7],
    [[]],
    [{ ...least, disks: 'many' }],
    [{ ...least, disks: [7, null] }],
    [{ ...least, nics: { a: 1 } }],
    [{ ...least, serial: 'file' }],
    [{ ...least, disks: [{ id: {}, bus: [], sizeBytes: 'x' }] }],
  ])('bears %j', (input) => {
    expect(checkDomainSpec(input).violations.length).toBeGreaterThan(0);
  });

  it.each([
    [{ name: 'a b' }],
    [{ name: 'x'.repeat(64) }],
    [{ name: 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6' }],
    [{ uuid: 'f81d4fae' }],
    [{ memoryBytes: 15 * MIB }],
    [{ memoryBytes: 64 * MIB + 1 }],
    [{ memoryBytes: 4 * 1024 ** 4 + MIB }],
    [{ vcpus: 256 }],
    [{ vcpus: 1.5 }],
    [{ cpu: 'max,kvm=off' }],
    [{ machine: 'microvm' }],
    [{ machine: 'pc,accel=kvm' }],
    [{ accelerator: 'auto' }],
    [{ kernel: '../vmlinuz' }],
    [{ kernel: 'k', kernelArguments: 'a\nb' }],
    [{ nics: [{ id: 'n', mac: '01:00:00:00:00:00' }] }],
    [{ nics: [{ id: 'n', type: 'tap' }] }],
    [{ nics: [{ id: 'n', type: 'tap', bridge: 'br0,script=x' }] }],
    [{ nics: Array.from({ length: 9 }, (_, index) => ({ id: `n${index}` })) }],
    [{ serial: { type: 'pty' } }],
    [{ rng: 'yes' }],
  ])('refuses %j', (change) => {
    expect(wrong(change)).toHaveLength(1);
  });

  it.each([
    [{ id: '-a' }],
    [{ id: 'x'.repeat(21) }],
    [{ pool: 'a/b' }],
    [{ sizeBytes: 513 }],
    [{ sizeBytes: 64 * 1024 ** 4 + 512 }],
    [{ sizeBytes: 0 }],
    [{ image: '../../etc/shadow', imageFormat: 'raw' }],
    [{ image: '.hidden', imageFormat: 'raw' }],
    [{ image: 'disk.vmdk' }],
    [{ imageFormat: 'raw' }],
    [{ format: 'vmdk' }],
    [{ bus: 'sata' }],
    [{ cache: 'unsafe' }],
    [{ readOnly: true }],
    [{ serial: 'a b' }],
    [{ readOnly: true, image: 'a.qcow2', format: 'raw' }],
  ])('refuses a disk with %j', (disk) => {
    expect(wrongDisk(disk)).toHaveLength(1);
  });

  it('takes IDE disks on the machine pc only, four of them, none read-only', () => {
    const ide = (count: number) =>
      Array.from({ length: count }, (_, index) => ({
        id: `d${index}`,
        sizeBytes: MIB,
        bus: 'ide',
      }));
    expect(wrong({ machine: 'pc', disks: ide(4) })).toEqual([]);
    expect(wrong({ machine: 'pc-i440fx-10.0', disks: ide(4) })).toEqual([]);
    expect(wrong({ machine: 'pc', disks: ide(5) })).toHaveLength(1);
    expect(wrong({ disks: ide(2) })).toHaveLength(2);
    const readOnly = { bus: 'ide', readOnly: true, image: 'a.img' };
    expect(wrongDisk(readOnly, { machine: 'pc' })).toHaveLength(1);
  });

  it('counts PCI slots: disks on virtio-scsi share one', () => {
    const disks = (count: number, bus: string) =>
      Array.from({ length: count }, (_, index) => ({ id: `d${index}`, sizeBytes: MIB, bus }));
    expect(wrong({ disks: disks(29, 'virtio-blk') })).toEqual([]);
    expect(wrong({ disks: disks(29, 'virtio-blk'), rng: true })).toEqual([
      expect.stringContaining('need 30 PCI slots'),
    ]);
    expect(wrong({ disks: disks(32, 'virtio-scsi'), rng: true, balloon: true })).toEqual([]);
    expect(wrong({ disks: disks(33, 'virtio-scsi') })).toHaveLength(1);
  });

  it('writes UUIDs and MAC addresses in lower case', () => {
    const spec = parseDomainSpec({
      ...least,
      uuid: 'F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6',
      nics: [{ id: 'n', mac: '52:54:00:AB:CD:EF' }],
    });
    expect(spec.uuid).toBe('f81d4fae-7dec-11d0-a765-00a0c91e6bf6');
    expect(spec.nics[0]?.mac).toBe('52:54:00:ab:cd:ef');
  });

  it.each([
    ['a value without a text', { toString: 0 }],
    ['a number that is no JSON', 1n],
    ['an object without a prototype', Object.create(null)],
    ['a very long text', 'x'.repeat(1024 ** 2)],
    ['very many things', Array(20_000).fill({ id: '/', pool: '/' })],
  ])('is refused in few words, and never thrown about, with %s anywhere', (_name, value) => {
    for (const key of ['name', 'machine', 'accelerator', 'disks', 'nics', 'serial', 'kernel']) {
      for (const fields of [
        { [key]: value },
        { disks: [{ id: value, bus: 'ide', image: value }] },
      ]) {
        const { violations } = checkDomainSpec({ ...least, ...fields });
        expect(violations.length, key).toBeGreaterThan(0);
        expect(JSON.stringify(violations).length).toBeLessThan(20_000);
      }
    }
    let deep: object = {};
    for (let depth = 0; depth < 50_000; depth += 1) deep = { deep };
    expect(checkDomainSpec(deep).violations.length).toBeGreaterThan(0);
  });
});

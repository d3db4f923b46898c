import type { DiskSpec, DomainSpec, NicSpec } from './domain-spec.js';
import { quote } from './fields.js';

/** A rule that a spec breaks, and the field that should change. */
export interface BrokenRule {
  readonly path: readonly (string | number)[];
  /** Completes the sentence "<field> ...". */
  readonly message: string;
}

/** Slots of the first PCI bus that devices may take; the others belong to the machine's own. */
export const PCI_SLOTS = { first: 2, last: 30 } as const;

const IDE_DISK_LIMIT = 4;

/** True for the machine types with an IDE controller. */
export function isPcMachine(machine: string): boolean {
  return machine === 'pc' || machine.startsWith('pc-i440fx-');
}

/**
 * A spec of which single fields may be wrong: every rule must bear values that are not what the
 * type says.
 */
type Unchecked<T> = { readonly [K in keyof T]?: unknown };

/**
 * Finds every rule across fields that a spec breaks. Fields that are wrong by themselves are told
 * elsewhere.
 */
export function checkRules(spec: Unchecked<DomainSpec>): readonly BrokenRule[] {
  const disks = groups<DiskSpec>(spec.disks);
  const nics = groups<NicSpec>(spec.nics);
  return [
    ...uniqueIds([
      ...disks.map(({ id }, index) => ({ id, path: ['disks', index, 'id'] })),
      ...nics.map(({ id }, index) => ({ id, path: ['nics', index, 'id'] })),
    ]),
    ...disks.flatMap((disk, index) => [...checkDisk(disk, index)]),
    ...checkIde(spec.machine, disks),
    ...nics.flatMap((nic, index) => [...checkNic(nic, index)]),
    ...uniqueMacs(nics),
    ...checkSlots(spec, disks, nics),
    ...checkBoot(spec),
  ];
}

function* checkDisk(disk: Unchecked<DiskSpec>, index: number): Generator<BrokenRule> {
  const at = (field: keyof DiskSpec, message: string) => ({
    path: ['disks', index, field],
    message,
  });
  if (disk.readOnly === true && !disk.image) {
    yield at('image', 'must be given, because a read-only disk of zeros is of no use');
  }
  if (disk.readOnly === true && disk.bus === 'ide') {
    yield at('readOnly', 'must be false, because an IDE disk cannot be read-only');
  }
  if (!disk.sizeBytes && !disk.image) {
    yield at('sizeBytes', 'must be given, or an image that it comes from');
  }
  if (disk.imageFormat && !disk.image) yield at('imageFormat', 'goes only with an image');
  if (typeof disk.image === 'string' && disk.image && !disk.imageFormat) {
    if (!/\.(qcow2|raw|img|iso)$/.test(disk.image)) {
      yield at(
        'imageFormat',
        'must be given, because the name of the image does not end in .qcow2, .raw, .img or .iso',
      );
    }
  }
  if (disk.readOnly === true && disk.format && disk.image) {
    const imageFormat =
      disk.imageFormat ||
      (typeof disk.image === 'string' && disk.image.endsWith('.qcow2') ? 'qcow2' : 'raw');
    if (disk.format !== imageFormat) {
      yield at('format', 'must be the format of the image, which a read-only disk uses in place');
    }
  }
}

function* checkIde(machine: unknown, disks: readonly Unchecked<DiskSpec>[]): Generator<BrokenRule> {
  let count = 0;
  for (const [index, disk] of disks.entries()) {
    if (disk.bus !== 'ide') continue;
    count += 1;
    const path = ['disks', index, 'bus'];
    if (typeof machine !== 'string' || !isPcMachine(machine))
      yield { path, message: 'can be ide only on the machine pc' };
    else if (count > IDE_DISK_LIMIT) {
      yield {
        path,
        message: `cannot be ide, because there is room for ${IDE_DISK_LIMIT} IDE disks`,
      };
    }
  }
}

function* checkNic(nic: Unchecked<NicSpec>, index: number): Generator<BrokenRule> {
  const path = ['nics', index, 'bridge'];
  if (nic.type === 'tap' && !nic.bridge) yield { path, message: 'must be given with the type tap' };
  if (nic.type !== 'tap' && nic.bridge) yield { path, message: 'goes only with the type tap' };
}

function* checkSlots(
  spec: Unchecked<DomainSpec>,
  disks: readonly Unchecked<DiskSpec>[],
  nics: readonly unknown[],
): Generator<BrokenRule> {
  const needed =
    disks.filter(({ bus }) => bus === 'virtio-blk').length +
    (disks.some(({ bus }) => bus === 'virtio-scsi') ? 1 : 0) +
    nics.length +
    (spec.rng === true ? 1 : 0) +
    (spec.balloon === true ? 1 : 0);
  const available = PCI_SLOTS.last - PCI_SLOTS.first + 1;
  if (needed > available) {
    yield {
      path: ['disks'],
      message: [
        `need ${needed} PCI slots together with the other devices, and there are ${available};`,
        'put disks on virtio-scsi, which share one',
      ].join(' '),
    };
  }
}

function* checkBoot(spec: Unchecked<DomainSpec>): Generator<BrokenRule> {
  if (spec.kernelArguments && !spec.kernel) {
    yield { path: ['kernelArguments'], message: 'goes only with a kernel' };
  }
  // A name that reads as a UUID could not be told from one in requests, which take either.
  if (
    typeof spec.name === 'string' &&
    /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(spec.name)
  ) {
    yield { path: ['name'], message: 'cannot look like a UUID' };
  }
}

function* uniqueIds(
  ids: readonly { readonly id: unknown; readonly path: readonly (string | number)[] }[],
): Generator<BrokenRule> {
  const seen = new Set<unknown>();
  for (const { id, path } of ids) {
    if (seen.has(id)) yield { path, message: `must be unique; ${quote(id)} is taken` };
    if (typeof id === 'string') seen.add(id);
  }
}

function* uniqueMacs(nics: readonly Unchecked<NicSpec>[]): Generator<BrokenRule> {
  const seen = new Set<unknown>();
  for (const [index, { mac }] of nics.entries()) {
    if (!mac) continue;
    if (seen.has(mac)) yield { path: ['nics', index, 'mac'], message: 'must be unique' };
    seen.add(mac);
  }
}

function groups<T>(value: unknown): readonly Unchecked<T>[] {
  if (!Array.isArray(value)) return [];
  return value.map((item: unknown) => (typeof item === 'object' && item !== null ? item : {}));
}

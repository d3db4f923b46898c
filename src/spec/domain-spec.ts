import { z } from 'zod';
import { ReasonedError } from '../util/reasoned-error.js';
import type { Reason } from '../util/reasons.js';
import { checkRules } from './domain-rules.js';
import { choice, flag, optionalText, quote, requiredChoice, text, wholeNumber } from './fields.js';
import { firstViolations, type SpecViolation, showPath, unknownFields } from './violations.js';

const MIB = 1024 ** 2;
const TIB = 1024 ** 4;

const DISK_OR_NIC_ID = /^[A-Za-z][A-Za-z0-9_-]{0,19}$/;
const CATALOGUE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/;
const MACHINE = /^(q35|pc|pc-q35-\d+\.\d+(\.\d+)?|pc-i440fx-\d+\.\d+(\.\d+)?)$/;
/** Longest command line that a Linux kernel for x86 takes, without the ending zero. */
const KERNEL_ARGUMENTS_LIMIT = 2047;

const id = text(DISK_OR_NIC_ID, 'must be a letter, then up to 19 letters, digits, `_` or `-`');
const catalogueName = (what: string, fallback = '') =>
  optionalText(
    CATALOGUE_NAME,
    `must be the plain name of ${what}: letters, digits, \`_\`, \`.\`, \`+\` or \`-\``,
    fallback,
  );

/** A value without a word for "open" in its type, whatever case it is written in. */
const lowerCase = (pattern: RegExp, allowed: string) =>
  z
    .string({ error: 'must be text' })
    .default('')
    .transform((value) => value.toLowerCase())
    .refine((value) => value === '' || pattern.test(value), {
      error: (issue) => `${allowed}, not ${quote(issue.input)}`,
    });

const BUSES = ['virtio-blk', 'virtio-scsi', 'ide'] as const;

/** Words that name a device of QEMU which cannot be migrated deserve a reason of their own. */
const bus = z
  .string({ error: 'must be text' })
  .default('')
  .superRefine((value, context) => {
    if (value === '' || BUSES.some((known) => known === value)) return;
    context.addIssue(
      value === 'nvme'
        ? {
            code: 'custom',
            params: { reason: 'QEMU_DEVICE_UNKNOWN' satisfies Reason },
            message: `cannot be nvme, which QEMU cannot migrate; use ${BUSES.join(', ')}`,
          }
        : { code: 'custom', message: `must be ${BUSES.join(', ')}, not ${quote(value)}` },
    );
  })
  .transform((value) => (value || 'virtio-blk') as DiskBus);

const diskSchema = z.object(
  {
    id,
    pool: catalogueName('a pool', 'default'),
    sizeBytes: wholeNumber(0, 64 * TIB, 'must be a size up to 64 TiB')
      .multipleOf(512, { error: 'must be a multiple of 512 bytes' })
      .default(0),
    image: catalogueName("a file in the pool's images folder"),
    imageFormat: optionalText(/^(raw|qcow2)$/, 'must be raw or qcow2'),
    format: optionalText(/^(raw|qcow2)$/, 'must be raw or qcow2'),
    bus,
    cache: choice(['none', 'writeback', 'writethrough', 'directsync'], 'none'),
    discard: flag(true),
    readOnly: flag(false),
    shared: flag(false),
    serial: optionalText(
      /^[A-Za-z0-9_.-]{1,20}$/,
      'must be up to 20 letters, digits, `_`, `.` or `-`',
    ),
  },
  { error: 'must be a disk: a group of fields' },
);

const nicSchema = z.object(
  {
    id,
    type: choice(['user', 'tap'], 'user'),
    // A network interface of Linux has at most 15 characters.
    bridge: optionalText(
      /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/,
      'must be the name of a bridge, up to 15 characters',
    ),
    mac: lowerCase(MAC, 'must be a MAC address of one station, such as 52:54:00:12:34:56'),
    model: choice(['virtio-net', 'e1000'], 'virtio-net'),
  },
  { error: 'must be a network interface: a group of fields' },
);

const domainSchema = z
  .object(
    {
      name: text(
        /^[A-Za-z][A-Za-z0-9_.-]{0,62}$/,
        'must be a letter, then up to 62 letters, digits, `_`, `.` or `-`',
      ),
      uuid: lowerCase(UUID, 'must be a UUID'),
      memoryBytes: wholeNumber(16 * MIB, 4 * TIB, 'must be a size from 16 MiB to 4 TiB').multipleOf(
        MIB,
        { error: 'must be whole MiB' },
      ),
      vcpus: wholeNumber(0, 255, 'must be a whole number from 1 to 255')
        .default(0)
        .transform((value) => value || 1),
      cpu: optionalText(
        /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/,
        'must be the name of a CPU model',
        'qemu64',
      ),
      machine: optionalText(
        MACHINE,
        'must be q35, pc, or one of their versions such as pc-q35-10.0',
        'q35',
      ),
      accelerator: requiredChoice(['tcg', 'kvm']),
      kernel: catalogueName("a kernel of the host's catalogue"),
      kernelArguments: optionalText(
        new RegExp(`^[\\x20-\\x7e]{1,${KERNEL_ARGUMENTS_LIMIT}}$`),
        `must be up to ${KERNEL_ARGUMENTS_LIMIT} printable ASCII characters`,
      ),
      disks: z
        .array(diskSchema, { error: 'must be a list of disks' })
        .max(32, { error: 'must be at most 32 disks' })
        .default([]),
      nics: z
        .array(nicSchema, { error: 'must be a list of network interfaces' })
        .max(8, { error: 'must be at most 8 network interfaces' })
        .default([]),
      serial: z
        .object(
          { type: requiredChoice(['file', 'socket']) },
          { error: 'must be a serial console: a group with `type`' },
        )
        .optional(),
      rng: flag(false),
      balloon: flag(false),
    },
    { error: 'must be a group of fields' },
  )
  // The rules across fields run even when single fields are wrong, so that all violations are told
  // at once.
  .superRefine(
    (spec, context) => {
      for (const { path, message } of checkRules(spec)) {
        context.addIssue({ code: 'custom', path: [...path], message });
      }
    },
    { when: ({ value }) => typeof value === 'object' && value !== null },
  )
  .transform(
    (spec): DomainSpec => ({
      ...spec,
      serial: spec.serial,
      disks: spec.disks.map(withDiskDefaults),
    }),
  );

/** How a disk is attached to its domain. */
type DiskBus = (typeof BUSES)[number];
/** The format of an image. */
export type ImageFormat = 'raw' | 'qcow2';

/** A disk with every default filled in. Fields as in `DiskSpec` of the wire. */
export interface DiskSpec {
  readonly id: string;
  readonly pool: string;
  /** 0 until creation when the size comes from the image. */
  readonly sizeBytes: number;
  /** Empty when the disk starts with zeros. */
  readonly image: string;
  /** Empty without an image. */
  readonly imageFormat: ImageFormat | '';
  readonly format: ImageFormat;
  readonly bus: DiskBus;
  readonly cache: 'none' | 'writeback' | 'writethrough' | 'directsync';
  readonly discard: boolean;
  readonly readOnly: boolean;
  readonly shared: boolean;
  readonly serial: string;
}

/** A network interface with every default filled in. */
export interface NicSpec {
  readonly id: string;
  readonly type: 'user' | 'tap';
  /** Empty unless the type is `tap`. */
  readonly bridge: string;
  /** Empty until creation. */
  readonly mac: string;
  readonly model: 'virtio-net' | 'e1000';
}

/**
 * What a domain is made of, with every default filled in. Fields as in `DomainSpec` of the wire.
 */
export interface DomainSpec {
  readonly name: string;
  /** Empty until creation. */
  readonly uuid: string;
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly cpu: string;
  /** A version such as `pc-q35-10.0` after creation. */
  readonly machine: string;
  readonly accelerator: 'tcg' | 'kvm';
  readonly kernel: string;
  readonly kernelArguments: string;
  readonly disks: readonly DiskSpec[];
  readonly nics: readonly NicSpec[];
  readonly serial: { readonly type: 'file' | 'socket' } | undefined;
  readonly rng: boolean;
  readonly balloon: boolean;
}

/** A spec as it is given: what may be left open may be absent. */
export type DomainSpecInput = Given<z.input<typeof domainSchema>>;

/** Open means absent, never present and undefined. */
type Given<T> = T extends readonly (infer Item)[]
  ? Given<Item>[]
  : T extends object
    ? { [K in keyof T]: Given<Exclude<T[K], undefined>> }
    : T;

/** The outcome of checking a spec: it is there exactly when nothing is wrong. */
export type CheckedSpec =
  | { readonly spec: DomainSpec; readonly violations: readonly [] }
  | { readonly spec: undefined; readonly violations: readonly [SpecViolation, ...SpecViolation[]] };

/**
 * Checks a spec, as decoded from the wire or read from a file, and fills in the defaults. Never
 * throws.
 */
export function checkDomainSpec(input: unknown): CheckedSpec {
  const result = domainSchema.safeParse(input);
  const unknown = unknownFields(input);
  if (result.success && unknown.length === 0) return { spec: result.data, violations: [] };
  const found = result.success ? [] : result.error.issues.map(toViolation);
  return { spec: undefined, violations: firstViolations([...unknown, ...found]) as never };
}

/**
 * The same for callers that cannot go on without a spec.
 *
 * @throws ReasonedError with all violations; its reason is the first one's
 */
export function parseDomainSpec(input: unknown): DomainSpec {
  const { spec, violations } = checkDomainSpec(input);
  if (spec) return spec;
  throw new ReasonedError(
    violations[0].reason,
    `The spec is wrong: ${violations.map(({ message }) => message).join('; ')}.`,
    { violations },
  );
}

function withDiskDefaults(disk: z.output<typeof diskSchema>): DiskSpec {
  const imageFormat = disk.image ? disk.imageFormat || formatByName(disk.image) : '';
  const format = disk.format || (disk.readOnly ? imageFormat : '') || 'raw';
  return {
    ...disk,
    imageFormat: imageFormat as ImageFormat | '',
    format: format as ImageFormat,
    serial: disk.serial || disk.id,
  };
}

function formatByName(name: string): ImageFormat | '' {
  if (name.endsWith('.qcow2')) return 'qcow2';
  return /\.(raw|img|iso)$/.test(name) ? 'raw' : '';
}

function toViolation(issue: z.core.$ZodIssue): SpecViolation {
  const path = issue.path as (string | number)[];
  const subject = showPath(path);
  const reason = issue.code === 'custom' ? (issue.params?.['reason'] as Reason) : undefined;
  return {
    reason: reason ?? 'SPEC_INVALID',
    subject,
    message: `${subject || 'the spec'} ${issue.message}`,
    path,
  };
}

import { z } from 'zod';
import { checkDomainSpec, type DomainSpecInput } from './domain-spec.js';
import { size } from './fields.js';
import { checkYaml, type FileViolation, fileError, readYaml, showYamlPath } from './strict-yaml.js';
import type { SpecViolation } from './violations.js';

/**
 * Values are looked at by the spec's own schema; here it is the keys, and sizes with their units.
 */
const anything = z.unknown().optional();
const group = { error: 'must be a group of fields' };

const diskSchema = z.strictObject(
  {
    id: anything,
    pool: anything,
    size: size().optional(),
    image: anything,
    imageFormat: anything,
    format: anything,
    bus: anything,
    cache: anything,
    discard: anything,
    readOnly: anything,
    shared: anything,
    serial: anything,
  },
  group,
);

const nicSchema = z.strictObject(
  { id: anything, type: anything, bridge: anything, mac: anything, model: anything },
  group,
);

const fileSchema = z.strictObject(
  {
    name: anything,
    uuid: anything,
    memory: size().optional(),
    vcpus: anything,
    cpu: anything,
    machine: anything,
    accelerator: anything,
    kernel: anything,
    kernelArguments: anything,
    disks: z.array(diskSchema, { error: 'must be a list of disks' }).optional(),
    nics: z.array(nicSchema, { error: 'must be a list of network interfaces' }).optional(),
    serial: z.strictObject({ type: anything }, group).optional(),
    rng: anything,
    balloon: anything,
  },
  group,
);

/**
 * Reads a domain's spec from YAML: the words of the wire in snake_case, sizes with a unit and
 * without `_bytes`. What the file leaves open stays open: the agent fills in the defaults.
 *
 * @throws ReasonedError `SPEC_INVALID`, or the reason of the first violation; all are told, with
 * their lines
 */
export function parseDomainFile(text: string, fileName: string): DomainSpecInput {
  const file = readYaml(text, 'SPEC_INVALID');
  const parsed = checkYaml(file, fileSchema, 'SPEC_INVALID');
  const input = withByteNames(file.data);
  const violations: FileViolation[] = parsed.success ? [] : [...parsed.violations];
  if (file.data !== undefined) {
    const told = new Set(violations.map(({ subject }) => subject));
    for (const violation of checkDomainSpec(input).violations) {
      const inFile = toFileViolation(violation, file.lineOf);
      // A size that cannot be read is told once, with its unit in mind.
      if (!told.has(inFile.subject)) violations.push(inFile);
    }
  }
  if (violations.length === 0) return input as DomainSpecInput;
  throw fileError(
    fileName,
    'SPEC_INVALID',
    violations.sort((one, other) => one.line - other.line),
  );
}

function withByteNames(data: unknown): unknown {
  if (!isGroup(data)) return data;
  const { memory, disks, ...rest } = data;
  return {
    ...rest,
    ...('memory' in data ? { memoryBytes: toBytes(memory) } : {}),
    ...('disks' in data ? { disks: Array.isArray(disks) ? disks.map(withSizeBytes) : disks } : {}),
  };
}

function withSizeBytes(disk: unknown): unknown {
  if (!isGroup(disk) || !('size' in disk)) return disk;
  const { size: sizeBytes, ...rest } = disk;
  return { ...rest, sizeBytes: toBytes(sizeBytes) };
}

/** A size that cannot be read stays as it is, and is told by the schema of the file. */
function toBytes(value: unknown): unknown {
  const { success, data } = size().safeParse(value);
  return success ? data : value;
}

function toFileViolation(
  violation: SpecViolation,
  lineOf: (path: readonly PropertyKey[]) => number,
): FileViolation {
  const path = violation.path.map((part) =>
    part === 'memoryBytes' ? 'memory' : part === 'sizeBytes' ? 'size' : part,
  );
  const subject = showYamlPath(path);
  const line = lineOf(path);
  const said = violation.message.slice(violation.subject.length || 'the spec'.length);
  return {
    reason: violation.reason,
    subject,
    line,
    message: `line ${line}: ${subject || 'the file'}${said}`,
  };
}

function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

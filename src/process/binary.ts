import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';
import type { QmpClient } from '../qmp/client.js';
import type { MigrationCapability } from '../qmp/types.gen.js';
import { type CpuRequest, type ExpandedCpu, expandCpu } from './cpu.js';
import { type BinaryProblem, type QemuVersion, versionProblems } from './known-bad.js';
import { withProbe } from './probe.js';

/** A machine type that a QEMU can start. */
interface MachineType {
  readonly name: string;
  /** The unversioned name that today means this type, such as "q35". */
  readonly alias: string | undefined;
  readonly maxVcpus: number;
  readonly deprecated: boolean;
}

/** What a QEMU can do, as far as anything here depends on it. */
interface BinaryFeatures {
  /** `migrate-incoming` can keep QEMU alive when loading fails. */
  readonly exitOnError: boolean;
  /** A running mirror can be switched to write-blocking. */
  readonly blockJobChange: boolean;
  /** Block nodes can be activated without running the guest. */
  readonly setActive: boolean;
  readonly migrationCapabilities: ReadonlySet<MigrationCapability>;
}

/** What was learned from asking a QEMU. */
interface BinaryFacts {
  readonly version: QemuVersion;
  readonly machines: readonly MachineType[];
  /** What `-cpu` can name. */
  readonly cpuModels: ReadonlySet<string>;
  readonly features: BinaryFeatures;
}

/** A QEMU binary together with what is known of it. */
export interface Binary {
  /** Absolute. */
  readonly path: string;
  /** Undefined if it could not be asked; `problems` says why. */
  readonly facts: BinaryFacts | undefined;
  /** Every reason against using it; empty if it can be used. */
  readonly problems: readonly BinaryProblem[];
  /**
   * Turns a CPU model into a fixed list of features. Rejects with QmpError if QEMU does not know
   * model or machine.
   */
  expandCpu(request: CpuRequest, options?: { readonly signal?: AbortSignal }): Promise<ExpandedCpu>;
}

interface InspectOptions {
  readonly signal?: AbortSignal;
}

/** Finds a program on PATH and returns its absolute path, or undefined. */
export async function findOnPath(
  program: string,
  path: string = process.env['PATH'] ?? '',
): Promise<string | undefined> {
  for (const folder of path.split(delimiter)) {
    // A relative folder on PATH would make the result depend on where the agent was started.
    if (!isAbsolute(folder)) continue;
    const candidate = join(folder, program);
    if (await isProgram(candidate)) return candidate;
  }
  return undefined;
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

const cache = new Map<string, Promise<Binary>>();

/**
 * Asks a QEMU what it is and can do, by starting it once without a machine. Never rejects but for
 * the signal: what is wrong is in `problems`. The answer is kept until the file changes.
 */
export async function inspectBinary(path: string, options: InspectOptions = {}): Promise<Binary> {
  const status = await stat(path).catch(() => undefined);
  const key = `${path}:${status?.mtimeMs}:${status?.size}`;
  const known = cache.get(key);
  if (known !== undefined) return await known;
  const inspection = inspect(path, options);
  cache.set(key, inspection);
  // A failure may pass (no memory, aborted), so it is not remembered.
  inspection.then(
    (binary) => binary.facts ?? cache.delete(key),
    () => cache.delete(key),
  );
  return inspection;
}

async function inspect(path: string, options: InspectOptions): Promise<Binary> {
  const expand: Binary['expandCpu'] = (request, more = {}) => expandCpu(path, request, more);
  try {
    const facts = await withProbe(path, ['-machine', 'none'], options, readFacts);
    return { path, facts, problems: versionProblems(facts.version), expandCpu: expand };
  } catch (error) {
    options.signal?.throwIfAborted();
    const reason = error instanceof Error ? error.message : String(error);
    const message = `${path} cannot be used as QEMU: ${reason}`;
    const problems = [{ code: 'QEMU_UNUSABLE', message }] as const;
    return { path, facts: undefined, problems, expandCpu: expand };
  }
}

async function readFacts(qmp: QmpClient): Promise<BinaryFacts> {
  const [version, machines, models, capabilities, schema] = await Promise.all([
    qmp.execute('query-version'),
    qmp.execute('query-machines'),
    qmp.execute('query-cpu-definitions'),
    qmp.execute('query-migrate-capabilities'),
    qmp.execute('query-qmp-schema'),
  ]);
  return {
    version: version.qemu,
    machines: machines.map((machine) => ({
      name: machine.name,
      alias: machine.alias,
      maxVcpus: machine['cpu-max'],
      deprecated: machine.deprecated,
    })),
    cpuModels: new Set(models.map(({ name }) => name)),
    features: {
      ...schemaFeatures(schema as readonly SchemaEntity[]),
      migrationCapabilities: new Set(capabilities.map((item) => item.capability)),
    },
  };
}

interface SchemaEntity {
  readonly name: string;
  readonly 'arg-type'?: string;
  readonly members?: readonly { readonly name: string }[];
}

function schemaFeatures(
  schema: readonly SchemaEntity[],
): Omit<BinaryFeatures, 'migrationCapabilities'> {
  const entities = new Map(schema.map((entity) => [entity.name, entity]));
  const incoming = entities.get(entities.get('migrate-incoming')?.['arg-type'] ?? '');
  return {
    exitOnError: incoming?.members?.some(({ name }) => name === 'exit-on-error') ?? false,
    blockJobChange: entities.has('block-job-change'),
    setActive: entities.has('blockdev-set-active'),
  };
}

import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { QemuProcessRecord } from '../process/qemu-process.js';
import { checkDomainSpec, type DomainSpec } from '../spec/domain-spec.js';
import { removeDurably, syncDirectory, writeDurably } from '../util/durable-file.js';
import { DomainError } from './errors.js';

/** The CPU of a domain, fixed at creation. Names are QEMU's. */
export interface FixedCpu {
  /** A model that is the same in every QEMU; the rest is said explicitly. */
  readonly model: string;
  readonly features: Readonly<Record<string, boolean>>;
  /** Vendor, family, levels and the like. */
  readonly properties: Readonly<Record<string, string>>;
}

/** What this host knows durably of a domain. */
export interface Definition {
  /** As fixed at creation: nothing in it is open any more. */
  readonly spec: DomainSpec;
  readonly cpu: FixedCpu;
  /** Slots on the machine's first PCI bus by device id. */
  readonly pciSlots: Readonly<Record<string, number>>;
  /** As in LaunchSpec: of the kernel that the QEMU of `process` was started with. */
  readonly kernelSha256: string;
  /** The only host that may run the domain. */
  readonly ownerHost: string;
  /** Raised by a person's word only, from 1. Of two copies the one of the higher epoch counts. */
  readonly epoch: number;
  readonly generation: number;
  /** The migration that brought it here; empty for one that was created here. */
  readonly arrivedBy: string;
  /** The QEMU that runs it here, as far as known. It may have ended meanwhile. */
  readonly process: QemuProcessRecord | undefined;
  /** The taps that were made for it here. */
  readonly taps: readonly string[];
}

/** A domain on its way in, written before anything is made for it. */
export interface IncomingRecord {
  readonly migrationId: string;
  readonly attempt: number;
  readonly epoch: number;
  readonly generation: number;
  readonly sourceHost: string;
  /** What would be this host's if the migration succeeds. */
  readonly definition: Definition;
  /** The pools in which a folder of images was made for it. */
  readonly pools: readonly string[];
  /** Storage that each of these images will probably take, by disk id. */
  readonly roomBytes: Readonly<Record<string, number>>;
  /** The further QEMU on the same images that takes RAM that is sent once more. */
  readonly again: FurtherQemu | undefined;
}

/** A QEMU that takes the place of the one in `definition.process` once it has the guest. */
interface FurtherQemu {
  readonly attempt: number;
  /** Undefined until it has been started. */
  readonly process: QemuProcessRecord | undefined;
}

/** All that is kept of one domain. */
export interface StoredDomain {
  readonly uuid: string;
  readonly definition: Definition | undefined;
  readonly incoming: IncomingRecord | undefined;
}

const VERSION = 1;
const DOMAIN_FILE = 'domain.json';
const INCOMING_FILE = 'incoming.json';
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const processSchema = z
  .object({
    process: z
      .object({ pid: z.number(), startTime: z.number(), unit: z.string().optional() })
      .transform(({ unit, ...rest }) => (unit === undefined ? rest : { ...rest, unit })),
    uuid: z.string(),
    directory: z.string(),
  })
  .optional()
  .transform((value) => value);

const definitionSchema = z.object({
  spec: z.unknown().transform((value, context): DomainSpec => {
    const { spec, violations } = checkDomainSpec(value);
    if (spec) return spec;
    context.addIssue({ code: 'custom', message: violations[0].message });
    return z.NEVER;
  }),
  cpu: z.object({
    model: z.string(),
    features: z.record(z.string(), z.boolean()),
    properties: z.record(z.string(), z.string()),
  }),
  pciSlots: z.record(z.string(), z.number()),
  kernelSha256: z.string(),
  ownerHost: z.string(),
  epoch: z.number().int().positive().default(1),
  generation: z.number().int().positive(),
  arrivedBy: z.string().default(''),
  process: processSchema,
  taps: z.array(z.string()),
});

const incomingSchema = z.object({
  migrationId: z.string(),
  attempt: z.number(),
  epoch: z.number().int().positive().default(1),
  generation: z.number(),
  sourceHost: z.string().default(''),
  definition: z.lazy(() => definitionSchema),
  pools: z.array(z.string()),
  roomBytes: z.record(z.string(), z.number()).default({}),
  again: z
    .object({ attempt: z.number(), process: processSchema })
    .optional()
    .transform((value) => value),
});

/**
 * The durable definitions of a host's domains, one folder each under `<state>/domains/<uuid>`.
 * Every write is on stable storage when its promise resolves. Owner, epoch and generation say whose
 * the domain is while no migration is under way; from its first record on the journal decides.
 */
export class Definitions {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, 'domains');
  }

  /**
   * The folder of a domain, which also holds what should outlive its QEMU. It goes with the last
   * record.
   */
  folder(uuid: string): string {
    return join(this.#directory, uuid);
  }

  /** Writes what this host knows of a domain. */
  async write(definition: Definition): Promise<void> {
    await this.#write(definition.spec.uuid, DOMAIN_FILE, definition);
  }

  /** Writes that a domain is on its way in. */
  async writeIncoming(uuid: string, record: IncomingRecord): Promise<void> {
    await this.#write(uuid, INCOMING_FILE, record);
  }

  /** Forgets that a domain was on its way in. */
  async removeIncoming(uuid: string): Promise<void> {
    await removeDurably(join(this.#directory, uuid, INCOMING_FILE));
    await this.#removeFolderWithout(uuid, DOMAIN_FILE);
  }

  /** Forgets a domain, but not that it is on its way in. Repeating it is harmless. */
  async remove(uuid: string): Promise<void> {
    await removeDurably(join(this.#directory, uuid, DOMAIN_FILE));
    await this.#removeFolderWithout(uuid, INCOMING_FILE);
  }

  /**
   * Reads everything. A file that cannot be understood is reported and left alone: its domain is
   * not shown, and nothing of it is touched.
   */
  async readAll(onProblem: (path: string, error: unknown) => void): Promise<StoredDomain[]> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const stored: StoredDomain[] = [];
    for (const uuid of (await readdir(this.#directory)).filter((name) => UUID.test(name)).sort()) {
      const path = join(this.#directory, uuid);
      try {
        const definition = await readAs(join(path, DOMAIN_FILE), definitionSchema);
        const incoming = await readAs(join(path, INCOMING_FILE), incomingSchema);
        const named = definition ?? incoming?.definition;
        if (named && named.spec.uuid !== uuid) throw new Error(`it describes ${named.spec.uuid}`);
        if (named) stored.push({ uuid, definition, incoming });
      } catch (error) {
        onProblem(path, error);
      }
    }
    return stored;
  }

  async #write(uuid: string, file: string, contents: object): Promise<void> {
    const folder = this.folder(uuid);
    try {
      const made = await mkdir(folder, { recursive: true, mode: 0o700 });
      if (made !== undefined) await syncDirectory(this.#directory);
      const text = JSON.stringify({ version: VERSION, ...contents }, undefined, 2);
      await writeDurably(join(folder, file), `${text}\n`);
    } catch (cause) {
      throw new DomainError('DISK_IO_ERROR', `${join(folder, file)} could not be written.`, {
        cause,
        hint: 'Check the file system of the state directory.',
      });
    }
  }

  async #removeFolderWithout(uuid: string, record: string): Promise<void> {
    const left = await readdir(this.folder(uuid)).catch(() => [record]);
    if (left.includes(record)) return;
    await rm(this.folder(uuid), { recursive: true, force: true });
    await syncDirectory(this.#directory);
  }
}

async function readAs<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const { version, ...contents } = JSON.parse(text) as { version: unknown };
  if (version !== VERSION) throw new Error(`${path} has version ${version}, not ${VERSION}`);
  const result = schema.safeParse(contents);
  if (result.success) return result.data;
  throw new Error(`${path}: ${z.prettifyError(result.error)}`);
}

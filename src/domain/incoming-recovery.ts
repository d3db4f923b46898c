import type { LaunchedProcess } from '../process/launcher.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { Definition, IncomingRecord } from './definitions.js';
import { DiskServer } from './disk-server.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { MemoryReservation } from './host-resources.js';
import type { HostedDomain } from './hosted-domain.js';
import { allocatedBytes, type ImageWish, noteRoom, readWritten } from './images.js';
import { type IncomingDomainParts, QemuIncomingDomain } from './incoming-domain.js';
import { type IncomingBooks, IncomingHold } from './incoming-hold.js';
import { pskIdentity } from './incoming-start.js';
import { type DomainTools, runFolder } from './launch.js';
import { MuteIncomingDomain } from './mute-incoming-domain.js';
import type { Reservation } from './pools.js';
import { QemuRamReceive } from './ram-receive.js';
import { attachTo, attachToQemu, discardIncoming } from './reattach.js';
import type { IncomingDomain, WaitOptions } from './types.js';

/** A QEMU as an earlier life of the agent left it. */
interface FoundProcess {
  readonly process?: QemuProcess;
  readonly silent?: LaunchedProcess;
}

/** What an incoming QEMU tells about itself and what belongs to it, beside the host's books. */
type Described = Omit<
  IncomingDomainParts,
  'process' | 'discard' | 'arrive' | 'allocated' | 'written'
>;

/**
 * Finds again what an earlier life of the agent made for a domain on its way in: its QEMU, NBD
 * server and RAM stream as far as they had come, memory and room. Nothing is ended: whether the
 * guest may run is for the caller to know.
 */
export async function recoverIncoming(
  uuid: string,
  incoming: IncomingRecord,
  books: IncomingBooks,
  tools: DomainTools,
  options: WaitOptions,
): Promise<IncomingDomain> {
  const definition = await currentDefinition(incoming, tools);
  const found = await findProcess(definition, tools, options);
  const wishes = wishesOf(incoming, tools);
  const memory = tools.resources.noteMemory(definition.spec.memoryBytes);
  const room = noteRoom(uuid, wishes);
  const pid = (found.process?.record.process ?? found.silent?.record)?.pid;
  if (pid !== undefined) {
    books.started(pid, found.process);
    memory.startedAs(pid);
  }
  const described = describe(definition, incoming, tools);
  const hold = new IncomingHold(
    {
      definition,
      wishes,
      memory,
      room,
      discard: () => discard(uuid, incoming, { memory, room }, books, tools),
      keep: () => undefined,
    },
    books,
  );
  const attach = async (process: QemuProcess) => {
    return await trace(
      {
        ...described,
        process,
        allocated: () => hold.allocated(),
        written: () => hold.written(),
        discard: () => hold.discard(),
        arrive: (qemu) => hold.arrive(qemu),
      },
      false,
      options,
    );
  };
  if (found.process) {
    try {
      return await attach(found.process);
    } catch (error) {
      await found.process.detach();
      if (options.signal.aborted) {
        memory.release();
        room.release();
        throw error;
      }
      tools.resources.settings.log.error({ err: error, uuid }, 'an incoming QEMU does not answer');
    }
  }
  const silent = found.silent ?? (await adoptAgain(definition, tools));
  return new MuteIncomingDomain({
    name: definition.spec.name,
    silent,
    again: async (limits) => {
      const { process } = await findProcess(definition, tools, limits, { strict: true });
      if (!process) return undefined;
      books.started(process.record.process.pid, process);
      return await attach(process);
    },
    discard: () => hold.discard(),
    arrive: ({ alive }) => hold.arrive({ alive, ...(silent ? { silent } : {}) }),
    arrived: false,
    report: described.report ?? (() => undefined),
  });
}

/**
 * The same for a domain that had come to stay when the agent ended, while its journal may not say
 * so yet: the hosted domain, seen once more as one that came in.
 */
export async function seeAsIncoming(
  domain: HostedDomain,
  tools: DomainTools,
  options: WaitOptions,
): Promise<IncomingDomain> {
  const { definition } = domain;
  const { spec, arrivedBy: migrationId } = definition;
  const described = describe(definition, { migrationId, attempt: 1, sourceHost: '' }, tools);
  const record = { definition, roomBytes: {} };
  const common = {
    allocated: () => allocatedBytes(wishesOf(record, tools)),
    written: () => readWritten(wishesOf(record, tools)),
    discard: async () => undefined,
    arrive: () => domain.ownership.update({}),
  };
  const see = async (limits: WaitOptions) =>
    domain.process && trace({ ...described, ...common, process: domain.process }, true, limits);
  const seen = await see(options);
  if (seen) return seen;
  return new MuteIncomingDomain({
    name: spec.name,
    silent: domain.silent,
    ...common,
    again: async (limits) => {
      if (definition.process) await attachTo(definition.process, domain, tools, limits);
      if (domain.silent) throw new Error('Its monitor does not answer.');
      return await see(limits);
    },
    arrived: true,
    report: described.report ?? (() => undefined),
  });
}

/** Joins a QEMU with what an earlier life of the agent had begun in it. */
async function trace(
  parts: IncomingDomainParts,
  arrived: boolean,
  options: WaitOptions,
): Promise<QemuIncomingDomain> {
  const { directory, doors, disks, process } = parts;
  const { qmp } = process;
  const diskIds = disks.filter(({ mirrored }) => mirrored).map(({ diskId }) => diskId);
  const [{ status }, server, ram] = await Promise.all([
    qmp.execute('query-status', {}, { limitMs: STEP_LIMIT_MS, ...options }),
    DiskServer.find({ qmp, directory, doors, diskIds }, options),
    QemuRamReceive.find({ qmp, directory, doors }, options),
  ]);
  // Only a guest that is not there yet has certainly never been told to run.
  return new QemuIncomingDomain(parts, {
    server,
    ram,
    mayHaveRun: status !== 'inmigrate',
    arrived,
  });
}

/**
 * What would arrive: a further QEMU takes the place of the first one when that has ended, which is
 * when the guest is loaded. Before that neither is of use to another life of the agent.
 */
async function currentDefinition(
  { definition, again }: IncomingRecord,
  { resources }: DomainTools,
): Promise<Definition> {
  const { launcher } = resources.settings;
  if (!again) return definition;
  const first = definition.process && (await launcher.adopt(definition.process.process));
  return { ...definition, process: first ? undefined : again.process };
}

async function findProcess(
  definition: Definition,
  { resources }: DomainTools,
  options: WaitOptions,
  { strict = false } = {},
): Promise<FoundProcess> {
  const { settings } = resources;
  // Without a record its start was cut short, and nobody was told that it waits.
  if (!definition.process) return {};
  try {
    const process = await attachToQemu(definition.process, settings, options);
    return process ? { process } : {};
  } catch (error) {
    options.signal.throwIfAborted();
    if (strict) throw error;
    settings.log.error({ err: error, domain: definition.spec.name }, 'a QEMU does not answer');
    const silent = await settings.launcher.adopt(definition.process.process);
    return silent ? { silent } : {};
  }
}

async function adoptAgain(
  { process }: Definition,
  { resources }: DomainTools,
): Promise<LaunchedProcess | undefined> {
  return process && resources.settings.launcher.adopt(process.process);
}

async function discard(
  uuid: string,
  incoming: IncomingRecord,
  reserved: { readonly memory: MemoryReservation; readonly room: Reservation },
  books: IncomingBooks,
  tools: DomainTools,
): Promise<void> {
  try {
    const { signal } = new AbortController();
    await discardIncoming(uuid, incoming, tools, { signal });
  } finally {
    reserved.memory.release();
    reserved.room.release();
    books.gone();
  }
}

function describe(
  { spec, process }: Definition,
  migration: Pick<IncomingRecord, 'migrationId' | 'attempt' | 'sourceHost'>,
  { resources }: DomainTools,
): Described {
  const { log, host, data, carrier } = resources.settings;
  const { migrationId, sourceHost } = migration;
  return {
    doors: { host, sourceHost, data, carrier, pskIdentity: pskIdentity(migration) },
    disks: spec.disks.map((disk) => ({
      diskId: disk.id,
      mirrored: !disk.readOnly && !disk.shared,
    })),
    attempt: migration.attempt,
    directory: process?.directory ?? runFolder(spec.uuid, resources),
    startAgain: async () => {
      throw new DomainError(
        'RAM_FAILED',
        `The RAM of ${spec.name} cannot be sent once more: its mirrors are of an earlier time.`,
        { side: 'destination' },
      );
    },
    report: (step, error) =>
      log.warn({ err: error, step, migration_id: migrationId }, 'could not undo a step'),
  };
}

function wishesOf(
  { definition: { spec }, roomBytes }: Pick<IncomingRecord, 'definition' | 'roomBytes'>,
  { resources }: DomainTools,
): ImageWish[] {
  return spec.disks.flatMap((disk) => {
    const pool = resources.pools.find(({ name }) => name === disk.pool);
    if (!pool || disk.readOnly || disk.shared) return [];
    const { id: diskId, format, sizeBytes } = disk;
    const image = { uuid: spec.uuid, diskId, format, sizeBytes };
    return [{ pool, image, from: undefined, roomBytes: roomBytes[diskId] ?? 0 }];
  });
}

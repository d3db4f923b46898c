import { lstat } from 'node:fs/promises';
import { readOwner, readStartTime } from '../process/proc.js';
import { qemuPaths } from '../process/qemu-directory.js';
import { QemuProcess, type QemuProcessRecord } from '../process/qemu-process.js';
import { readForeign } from '../util/foreign-files.js';
import type { Definition, IncomingRecord, StoredDomain } from './definitions.js';
import type { HostSettings } from './host-settings.js';
import { HostedDomain } from './hosted-domain.js';
import { type DomainTools, removeRunFolders, runFolder } from './launch.js';
import type { WaitOptions } from './types.js';

/** A healthy QEMU answers at once; the agent's start must not wait long for one that is not. */
const ATTACH_LIMIT_MS = 5_000;
const PID_FILE_BYTES = 64;

/**
 * Finds again what an earlier life of the agent left of a domain: one that runs goes on under this
 * one, one whose QEMU has ended is stopped.
 */
export async function reattach(
  definition: Definition,
  tools: DomainTools,
  options: WaitOptions,
): Promise<HostedDomain> {
  const domain = new HostedDomain(definition, tools);
  if (domain.ownership.ownedHere) await findQemu(domain, definition, tools, options);
  return domain;
}

/** True where a domain that was on its way in is this host's already. */
export function hasArrived(
  { definition, incoming }: StoredDomain,
  { resources }: DomainTools,
): boolean {
  const ownedHere = definition?.ownerHost === resources.settings.host;
  return ownedHere && definition.arrivedBy === incoming?.migrationId;
}

/** Ends and removes everything that a record of a domain on its way in names. */
export async function discardIncoming(
  uuid: string,
  incoming: IncomingRecord,
  tools: DomainTools,
  options: WaitOptions,
): Promise<void> {
  const { resources } = tools;
  const { log, system } = resources.settings;
  await endQemu(uuid, incoming.definition.process, runFolder(uuid, resources), tools, options);
  if (incoming.again) {
    const { attempt, process } = incoming.again;
    await endQemu(uuid, process, runFolder(uuid, resources, attempt), tools, options);
  }
  for (const tap of incoming.definition.taps) await system.deleteTap(tap);
  for (const pool of resources.pools) {
    if (incoming.pools.includes(pool.name)) await pool.removeDomain(uuid);
  }
  await removeRunFolders(uuid, resources);
  await tools.definitions.removeIncoming(uuid);
  log.warn({ uuid, migration_id: incoming.migrationId }, 'removed a domain that did not arrive');
}

async function findQemu(
  domain: HostedDomain,
  definition: Definition,
  tools: DomainTools,
  options: WaitOptions,
): Promise<void> {
  const { resources } = tools;
  const { log, system } = resources.settings;
  if (definition.process && (await attachTo(definition.process, domain, tools, options))) return;
  // What is found may be another agent's: nothing of it is ended, removed or written.
  if (tools.doubts.quarantine) return;
  if (!definition.process) {
    // A start that the agent's end cut short: its guest has not run yet.
    await endQemu(domain.uuid, undefined, runFolder(domain.uuid, resources), tools, options);
  }
  if (!definition.process && definition.taps.length === 0) return;
  for (const tap of definition.taps) await system.deleteTap(tap);
  await domain.ownership.update({ process: undefined, taps: [] });
  log.info({ domain: domain.name }, 'a domain has ended meanwhile');
}

/** Attaches to the QEMU of a domain, and says whether it answers; false where it has gone. */
export async function attachTo(
  record: QemuProcessRecord,
  domain: HostedDomain,
  { resources }: DomainTools,
  options: WaitOptions,
): Promise<boolean> {
  const { launcher, log } = resources.settings;
  try {
    const process = await attachToQemu(record, resources.settings, options);
    if (!process) return false;
    domain.adopt({ process, memory: resources.noteMemory(domain.definition.spec.memoryBytes) });
  } catch (error) {
    options.signal.throwIfAborted();
    const launched = await launcher.adopt(record.process);
    if (!launched) return false;
    domain.adoptSilent(launched);
    log.error({ err: error, domain: domain.name }, 'a QEMU does not answer');
    return true;
  }
  log.info({ domain: domain.name, pid: record.process.pid }, 'found a running domain');
  return true;
}

/** Finds a QEMU again; undefined where that very process is gone. Rejects within 5 s. */
export function attachToQemu(
  record: QemuProcessRecord,
  { launcher, transcript }: HostSettings,
  options: WaitOptions,
): Promise<QemuProcess | undefined> {
  return QemuProcess.attach(launcher, record, {
    ...options,
    limitMs: ATTACH_LIMIT_MS,
    ...(transcript ? { transcript: transcript(record.uuid) } : {}),
  });
}

/** Ends a QEMU that must not run, known by its record or by the pid file in its folder. */
async function endQemu(
  uuid: string,
  known: QemuProcessRecord | undefined,
  directory: string,
  { resources }: DomainTools,
  options: WaitOptions,
): Promise<void> {
  const { launcher } = resources.settings;
  if (known) {
    const launched = await launcher.adopt(known.process);
    launched?.kill('SIGKILL');
    launched?.hurry();
    await launched?.exited;
    return;
  }
  const record = await readPidFile(uuid, directory);
  if (!record) return;
  // The pid may be another process's by now; only one that answers with this UUID is ended.
  const limits = { ...options, limitMs: ATTACH_LIMIT_MS };
  const process = await QemuProcess.attach(launcher, record, limits).catch(() => undefined);
  await process?.kill();
}

async function readPidFile(
  uuid: string,
  directory: string,
): Promise<QemuProcessRecord | undefined> {
  const text = await readForeign(qemuPaths(directory).pidFile, PID_FILE_BYTES).catch(() => '');
  const pid = Number(text.trim());
  const startTime = pid > 0 ? readStartTime(pid) : undefined;
  if (startTime === undefined) return undefined;
  // QEMU wrote the file and may have named a process that it could not end by itself.
  const owner = await lstat(directory).catch(() => undefined);
  if (owner?.uid !== readOwner(pid)) return undefined;
  return { process: { pid, startTime }, uuid, directory };
}

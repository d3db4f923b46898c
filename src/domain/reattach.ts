import { readFile, rm } from 'node:fs/promises';
import { readStartTime } from '../process/proc.js';
import { qemuPaths } from '../process/qemu-directory.js';
import { QemuProcess, type QemuProcessRecord } from '../process/qemu-process.js';
import type { Definition, StoredDomain } from './definitions.js';
import { HostedDomain } from './hosted-domain.js';
import { type DomainTools, runFolder } from './launch.js';
import type { WaitOptions } from './types.js';

/** A healthy QEMU answers at once; the agent's start must not wait long for one that is not. */
const ATTACH_LIMIT_MS = 5_000;

/**
 * Finds again what an earlier life of the agent left: domains that run go on under this one, those
 * whose QEMU has ended are stopped, and what was on its way in without having arrived is removed.
 * Undefined where nothing is left.
 */
export async function reattach(
  stored: StoredDomain,
  tools: DomainTools,
  options: WaitOptions,
): Promise<HostedDomain | undefined> {
  let { definition } = stored;
  if (stored.incoming) {
    const { host } = tools.resources.settings;
    const arrived =
      definition?.ownerHost === host && definition.generation === stored.incoming.generation;
    if (!arrived) await discardIncoming(stored, tools, options);
    await tools.definitions.removeIncoming(stored.uuid);
  }
  if (!definition) return undefined;
  const domain = new HostedDomain(definition, tools);
  if (domain.ownership.ownedHere) await findQemu(domain, definition, tools, options);
  definition = domain.definition;
  if (domain.ownership.inDoubt && definition.handover?.record === 'DONE') {
    // The destination has the guest; only the last step here was missing.
    await domain.retire(definition.handover.peer);
  }
  return domain;
}

async function discardIncoming(
  { uuid, incoming }: StoredDomain,
  tools: DomainTools,
  options: WaitOptions,
): Promise<void> {
  if (!incoming) return;
  const { resources } = tools;
  const { log, system } = resources.settings;
  await endQemu(uuid, incoming.definition, tools, options);
  for (const tap of incoming.definition.taps) await system.deleteTap(tap);
  for (const pool of resources.pools) {
    if (incoming.pools.includes(pool.name)) await pool.removeDomain(uuid);
  }
  await rm(runFolder(uuid, resources), { recursive: true, force: true });
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
  if (definition.process) {
    const found = await attachTo(definition.process, domain, tools, options);
    if (found) return;
  } else {
    // A start that the agent's end cut short: its guest has not run yet.
    await endQemu(domain.uuid, definition, tools, options);
  }
  if (!definition.process && definition.taps.length === 0) return;
  for (const tap of definition.taps) await system.deleteTap(tap);
  await domain.ownership.update({ process: undefined, taps: [] });
  log.info({ domain: domain.name }, 'a domain has ended meanwhile');
}

/** False where that very process is gone. */
async function attachTo(
  record: QemuProcessRecord,
  domain: HostedDomain,
  { resources }: DomainTools,
  options: WaitOptions,
): Promise<boolean> {
  const { launcher, log, transcript } = resources.settings;
  const limits = { ...options, limitMs: ATTACH_LIMIT_MS };
  try {
    const traced = transcript ? { ...limits, transcript: transcript(domain.uuid) } : limits;
    const process = await QemuProcess.attach(launcher, record, traced);
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

/** Ends a QEMU that must not run, known by its record or by the pid file in its folder. */
async function endQemu(
  uuid: string,
  { process: known }: Definition,
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
  const record = await readPidFile(uuid, runFolder(uuid, resources));
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
  const text = await readFile(qemuPaths(directory).pidFile, 'latin1').catch(() => '');
  const pid = Number(text.trim());
  const startTime = pid > 0 ? readStartTime(pid) : undefined;
  if (startTime === undefined) return undefined;
  return { process: { pid, startTime }, uuid, directory };
}

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Domain } from '../../src/gen/drover/v1/domain.js';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import type { QmpClient } from '../../src/qmp/client.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import type { ChaosFleet, HostName } from './fleet.js';
import type { ChaosHost } from './host.js';

const NAMES = ['alpha', 'beta'] as const;

/** What the agent of one host says of the domain. */
export type Seen =
  | { readonly type: 'silent'; readonly problem: string }
  | { readonly type: 'absent' }
  | { readonly type: 'domain'; readonly domain: Domain };

/** What both agents say, at one time. */
export interface Observation {
  readonly seen: Readonly<Record<HostName, Seen>>;
  /** Undefined where the source does not know of it. */
  readonly migration: Migration | undefined;
  /** What keeps this from being an end; empty when it is one. */
  readonly unsettled: string;
  /** The host that has the guest, running or not. */
  readonly owner: HostName | undefined;
  readonly state: string;
  readonly qemuPid: number;
}

/** Asks both agents who has the guest, and the source what became of the migration. */
export async function observe(
  fleet: ChaosFleet,
  source: HostName,
  migrationId: string,
  pauseIsFine: boolean,
): Promise<Observation> {
  const [alpha, beta, migration] = await Promise.all([
    ask(fleet, 'alpha'),
    ask(fleet, 'beta'),
    askMigration(fleet.host(source), migrationId),
  ]);
  const seen = { alpha, beta };
  const problems: string[] = [];
  const owners = NAMES.filter((name) => {
    const one = seen[name];
    if (one.type === 'silent') problems.push(`${name} is silent: ${one.problem}`);
    if (one.type !== 'domain') return false;
    const { state, migrationId: claim, doubt } = one.domain;
    if (doubt) problems.push(`${name}: in doubt: ${doubt.reason}: ${doubt.message}`);
    if (claim !== '') problems.push(`${name}: migration ${claim} holds it`);
    if (state === 'STATE_INCOMING' || state === 'STATE_IN_DOUBT') {
      problems.push(`${name}: ${state}`);
    }
    return state !== 'STATE_MOVED' && state !== 'STATE_INCOMING';
  });
  const [owner] = owners;
  if (owners.length !== 1) problems.push(`${owners.length} hosts have it`);
  const own = owner === undefined ? undefined : seen[owner];
  const domain = own?.type === 'domain' ? own.domain : undefined;
  const state = domain?.state ?? 'nowhere';
  if (state === 'STATE_PAUSED' && !pauseIsFine) problems.push(`${owner}: the guest is paused`);
  if (typeof migration === 'string') problems.push(`${source}: ${migration}`);
  else if (migration && !isEnd(migration)) problems.push(`the migration is ${migration.state}`);
  return {
    seen,
    migration: typeof migration === 'string' ? undefined : migration,
    unsettled: problems.join('; '),
    owner,
    state,
    qemuPid: domain?.qemuPid ?? 0,
  };
}

/** True when the migration has ended. */
export function isEnd({ state }: Migration): boolean {
  return /SUCCEEDED|FAILED|CANCELLED/.test(state);
}

async function ask(fleet: ChaosFleet, name: HostName): Promise<Seen> {
  try {
    const { domains } = fleet.host(name).client;
    const { domain } = await domains.getDomain(
      { domain: fleet.uuid },
      { signal: AbortSignal.timeout(5_000) },
    );
    return domain ? { type: 'domain', domain } : { type: 'absent' };
  } catch (error) {
    if (error instanceof ReasonedError && error.reason === 'DOMAIN_NOT_FOUND') {
      return { type: 'absent' };
    }
    return { type: 'silent', problem: String(error) };
  }
}

async function askMigration(
  host: ChaosHost,
  migrationId: string,
): Promise<Migration | string | undefined> {
  try {
    const { migration } = await host.client.migrations.getMigration(
      { migrationId },
      { signal: AbortSignal.timeout(5_000) },
    );
    return migration;
  } catch (error) {
    if (error instanceof ReasonedError && error.reason === 'MIGRATION_NOT_FOUND') return undefined;
    return String(error);
  }
}

/** Everything on the two hosts that should not be there, in words. */
export async function leftovers(fleet: ChaosFleet, found: Observation): Promise<string[]> {
  const left: string[] = [];
  const running = found.qemuPid !== 0;
  for (const host of fleet.hosts) {
    const isOwner = host.name === found.owner;
    const pids = host
      .pids()
      .filter((pid) => !host.isRescue(pid) && !(isOwner && pid === found.qemuPid));
    left.push(...pids.map((pid) => `${host.name}: process ${pid}`));
    const { state, run } = host.parts.config.directories;
    // After a crash the folder stays until the next start, for its log.
    const isHome = (name: string) => isOwner && (!running || host.pidIn(name) === found.qemuPid);
    for (const name of host.runFolders(fleet.uuid)) {
      const inside = await list(join(run, name), isStrangeInRun);
      if (!isHome(name)) left.push(`${host.name}: run/${name}`);
      else left.push(...inside.map((file) => `${host.name}: run/${name}/${file}`));
    }
    const strange = (name: string) => !/^(domain\.json|serial\.log)$/.test(name);
    const inState = await list(join(state, 'domains', fleet.uuid), strange);
    left.push(...inState.map((name) => `${host.name}: domains/<uuid>/${name}`));
    const images = isOwner ? [] : await list(join(host.parts.home, 'pool'), isUuid);
    left.push(...images.map((name) => `${host.name}: pool/${name}`));
  }
  if (running && found.owner) left.push(...(await insideQemu(fleet, found.owner)));
  return left;
}

const isUuid = (name: string) => /^[0-9a-f]{8}-/.test(name);
const isStrangeInRun = (name: string) =>
  !/^(disk-server\.json|(agent|rescue|ram-in)\.sock|qemu\.(pid|log)|watchdog.*)$/.test(name);

async function list(folder: string, wanted: (name: string) => boolean): Promise<string[]> {
  const names = await readdir(folder).catch(() => []);
  return names.filter(wanted);
}

async function insideQemu(fleet: ChaosFleet, owner: HostName): Promise<string[]> {
  try {
    return await fleet.host(owner).monitor(fleet.uuid, (qmp) => strangersIn(qmp));
  } catch (error) {
    return [`${owner}: the monitor of QEMU: ${error}`];
  }
}

async function strangersIn(qmp: QmpClient): Promise<string[]> {
  const [jobs, exports, nodes, objects, migration] = await Promise.all([
    qmp.execute('query-jobs'),
    qmp.execute('query-block-exports'),
    qmp.execute('query-named-block-nodes', { flat: true }),
    qmp.execute('qom-list', { path: '/objects' }),
    qmp.execute('query-migrate'),
  ]);
  const names = nodes.map((node) => node['node-name'] ?? '');
  const strange = names.filter((name) => !/^(disk\d-(image|file)|chaos-.*)$/.test(name));
  const keys = objects.filter(({ name }) => name.includes('psk'));
  const going = ['setup', 'active', 'pre-switchover', 'device', 'cancelling'];
  return [
    ...jobs.map(({ id }) => `QEMU: job ${id}`),
    ...exports.map(({ id }) => `QEMU: export ${id}`),
    ...strange.map((name) => `QEMU: block node ${name}`),
    ...keys.map(({ name }) => `QEMU: object ${name}`),
    ...(going.includes(migration.status ?? '') ? [`QEMU: migration ${migration.status}`] : []),
  ];
}

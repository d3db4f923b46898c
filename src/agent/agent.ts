import type { Carrier } from '../channel/types.js';
import { DirectoryPool } from '../domain/directory-pool.js';
import { HostDomains } from '../domain/host-domains.js';
import type { HostSettings, HostSystem } from '../domain/host-settings.js';
import { hostSystem } from '../domain/host-system.js';
import { Peers } from '../mesh/peers.js';
import { LimitedArrivals } from '../migration/incoming-limits.js';
import { IncomingMigrations } from '../migration/incoming-migrations.js';
import { Migrations } from '../migration/migrations.js';
import type { PeerDirectory, PeerHandler } from '../migration/peer.js';
import { MigrationRegistry } from '../migration/registry.js';
import { Traffic } from '../migration/traffic.js';
import type { Binary } from '../process/binary.js';
import { findOnPath, inspectBinary } from '../process/binary.js';
import type { Launcher } from '../process/launcher.js';
import { type ImageTool, QemuImg } from '../process/qemu-img.js';
import type { Transcript } from '../qmp/client.js';
import type { CarrierSettings } from '../rpc/carrier.js';
import { PeerClients } from '../rpc/peer-directory.js';
import type { HostPort } from '../rpc/ports.js';
import { startRpcServer } from '../rpc/server.js';
import { TlsKeeper } from '../rpc/tls-keeper.js';
import { WorkerCarrier } from '../rpc/worker-carrier.js';
import { systemClock } from '../util/clock.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { UndoStack } from '../util/undo-stack.js';
import { droverVersion } from '../util/version.js';
import type { Audit } from './audit.js';
import { recordEnds } from './audit-ends.js';
import { agentEvent, openAudit } from './audit-open.js';
import type { AgentConfig } from './config.js';
import { confinement } from './confinement.js';
import { doubtPorts } from './doubt-ports.js';
import type { Logger } from './logger.js';
import { type AgentState, openState, type StateParts } from './state.js';

const SHUTDOWN_LIMIT_MS = 5_000;

/** A running agent. */
export interface RunningAgent {
  /** The port on the network, also where the configuration said 0. */
  readonly port: number;
  /** Reads the certificate files now instead of soon; what comes of it is in the log. */
  reloadCertificates(): void;
  /** Rolls back what has not been handed over and closes both doors. QEMUs go on. */
  close(): Promise<void>;
}

/** What tests bring instead of this machine's own. */
export interface AgentParts extends StateParts {
  readonly binary?: Binary;
  readonly launcher?: Launcher;
  readonly system?: HostSystem;
  readonly images?: ImageTool;
  /** Hears all that is said to QEMUs, by the domain's UUID. */
  readonly transcript?: (uuid: string) => Transcript;
  /** What carries streams; a worker thread by default. */
  readonly carrier?: (settings: CarrierSettings) => Carrier;
  /** Stands between the flow and the other agents. */
  readonly peers?: (directory: PeerDirectory) => PeerDirectory;
  /** Stands between PeerService and the flow. */
  readonly handler?: (handler: PeerHandler) => PeerHandler;
  /** Hears every event and record of the handover, as they come. */
  readonly observe?: (migrationId: string, label: string) => void;
}

/**
 * Puts an agent together and starts it: certificates, QEMU, pools, domains (those that still run
 * are found again), migrations, and the two doors last.
 *
 * @throws ReasonedError `CONFIG_INVALID`, `QEMU_MISSING`, or what kept the agent from starting
 */
export async function startAgent(
  config: AgentConfig,
  logger: Logger,
  parts: AgentParts = {},
): Promise<RunningAgent> {
  const clock = systemClock;
  await using undo = new UndoStack(({ error }) =>
    logger.warn({ err: error }, 'could not undo a step of the start'),
  );
  const tls = keepTls(config, logger);
  undo.defer('leave the certificates', async () => tls[Symbol.dispose]());
  const state = await openState(config.directories.state, logger, parts);
  undo.defer('give the state back', () => state.close());
  const audit = await openAudit(config, logger);
  undo.defer('write the audit', () => audit.close());
  const binary = await openBinary(logger, parts.binary);
  const carrier = openCarrier(config, { tls, audit }, parts);
  undo.defer('end the streams', () => carrier.close());
  const settings = { ...(await domainSettings(config, binary, logger, parts)), carrier };
  const domains = await HostDomains.open(settings, { quarantine: state.quarantine });
  undo.defer('let go of the domains', () => domains.close());
  const peers = new PeerClients(new Peers(config.host, config.peers), tls);
  const registry = new MigrationRegistry();
  recordEnds(registry, audit, config.host);
  registry.onForget((migration) => void state.forget(migration, config.host));
  const common = {
    host: config.host,
    bootId: state.bootId,
    domains,
    journals: state.journals,
    peers: parts.peers?.(peers) ?? peers,
    registry,
    link: config.link,
    traffic: new Traffic(config.link, { clock, log: logger }),
    clock,
    log: logger,
    observe: parts.observe,
  };
  const migrations = new Migrations(common);
  const incoming = new IncomingMigrations({ ...common, outgoing: migrations, audit });
  const { limits } = config;
  const arrivals = new LimitedArrivals({ ...common, limits, incoming, audit });
  undo.defer('end the leases', async () => arrivals.close());
  if (!state.quarantine) await recover(state, domains, [migrations, incoming]);
  const server = await startRpcServer({
    address: config.listen.address,
    socketPath: config.listen.unix,
    tls,
    agentVersion: droverVersion(),
    ports: {
      migrations,
      domains,
      host: hostPort(domains, peers, audit),
      peer: parts.handler?.(arrivals) ?? arrivals,
      ...doubtPorts({ ...common, config, state, incoming, migrations, peers }),
    },
    log: logger,
    audit,
    limits,
  });
  undo.release();
  audit.record(agentEvent(config, 'AGENT_STARTED'));
  logger.info({ port: server.port, socket: config.listen.unix }, 'agent is listening');
  return {
    port: server.port,
    reloadCertificates: () => tls.reload(),
    async close() {
      await migrations.close();
      arrivals.close();
      await incoming.close();
      await server.shutdown(SHUTDOWN_LIMIT_MS);
      peers[Symbol.dispose]();
      tls[Symbol.dispose]();
      await domains.close();
      await carrier.close();
      audit.record(agentEvent(config, 'AGENT_STOPPED'));
      await audit.close();
      await state.close();
    },
  };
}

function keepTls(config: AgentConfig, logger: Logger): TlsKeeper {
  const tls = new TlsKeeper(config.tls, { log: logger });
  const { identity } = tls.material;
  if (identity.role === 'host' && identity.name === config.host) return tls;
  tls[Symbol.dispose]();
  throw new ReasonedError(
    'CONFIG_INVALID',
    `host is "${config.host}", but the certificate names the ${identity.role} "${identity.name}".`,
    {
      hint: `Use a certificate with the URI spiffe://${identity.trustDomain}/host/${config.host}.`,
    },
  );
}

function openCarrier(
  { data }: AgentConfig,
  common: Pick<CarrierSettings, 'tls' | 'audit'>,
  parts: AgentParts,
): Carrier {
  const settings = { ...common, address: data.address, port: data.streamPort };
  return parts.carrier?.(settings) ?? new WorkerCarrier(settings);
}

/** What the domains of a host are made with. */
async function domainSettings(
  config: AgentConfig,
  binary: Binary,
  logger: Logger,
  parts: AgentParts,
): Promise<Omit<HostSettings, 'carrier'>> {
  return {
    host: config.host,
    directories: config.directories,
    data: {
      address: config.data.address,
      ports: [config.data.ports.first, config.data.ports.last],
    },
    pools: await openPools(config, parts.images),
    kernels: config.kernels.map(({ kernel, initrd, ...rest }) => ({
      ...rest,
      path: kernel,
      initrdPath: initrd,
    })),
    networks: config.networks,
    binary,
    ...confinement(config, logger, parts.launcher),
    system: parts.system ?? hostSystem,
    log: logger,
    ...(parts.transcript ? { transcript: parts.transcript } : {}),
  };
}

async function openPools({ pools }: AgentConfig, tool?: ImageTool): Promise<DirectoryPool[]> {
  const images = tool ?? (await findImageTool());
  return await Promise.all(pools.map((pool) => DirectoryPool.open(pool, images)));
}

async function findImageTool(): Promise<ImageTool> {
  const path = await findOnPath('qemu-img');
  if (path !== undefined) return new QemuImg(path);
  throw new ReasonedError('QEMU_MISSING', 'There is no qemu-img on PATH.');
}

/** Goes on with what an earlier life of the agent began; what nobody goes on with is removed. */
async function recover(
  { journals }: AgentState,
  domains: HostDomains,
  halves: readonly Pick<Migrations, 'recover'>[],
): Promise<void> {
  const files = await journals.readAll();
  await Promise.all(halves.map((half) => half.recover(files)));
  await domains.sweep({ signal: new AbortController().signal });
}

function hostPort(domains: HostDomains, peers: PeerClients, audit: Audit): HostPort {
  return {
    facts: () => domains.facts(),
    peers: () => peers.describe(),
    auditEvents: (query, limit) => audit.list(query, limit),
  };
}

async function openBinary(logger: Logger, given: Binary | undefined): Promise<Binary> {
  const binary = given ?? (await findQemu());
  for (const { message } of binary.problems) logger.warn({ problem: message }, 'QEMU is unusable');
  return binary;
}

async function findQemu(): Promise<Binary> {
  const path = await findOnPath('qemu-system-x86_64');
  if (path !== undefined) return await inspectBinary(path);
  throw new ReasonedError('QEMU_MISSING', 'There is no qemu-system-x86_64 on PATH.');
}

import { resolve } from 'node:path';
import type { Client } from 'nice-grpc';
import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../gen/drover/v1/migration_service.js';
import { type CallSettings, Connection } from './connection.js';
import { RpcError } from './errors.js';
import type { TlsFiles } from './tls-material.js';

const MINUTE_MS = 60_000;
const ASK_MS = 30_000;
/** Creating copies images, stopping waits for the guest. */
const LONG_MS = 15 * MINUTE_MS;

/**
 * The longest that calls may take, in milliseconds. Watching has no limit: keepalive finds an agent
 * that is gone.
 */
const DEADLINES_MS = {
  startMigration: ASK_MS,
  getMigration: ASK_MS,
  listMigrations: ASK_MS,
  cancelMigration: ASK_MS,
  // A fence command may take its time.
  resolveMigration: LONG_MS,
  createDomain: LONG_MS,
  startDomain: 2 * MINUTE_MS,
  stopDomain: LONG_MS,
  deleteDomain: 2 * MINUTE_MS,
  getDomain: ASK_MS,
  listDomains: ASK_MS,
  whoRuns: ASK_MS,
  getHost: ASK_MS,
  listPeers: ASK_MS,
  listAuditEvents: ASK_MS,
} as const;

/** Where an agent is and how to prove who calls. */
export interface AgentAddress {
  /** `unix:PATH`, or `host:port`. */
  readonly address: string;
  /** The caller's certificate; not needed for a unix socket. */
  readonly tls: TlsFiles | undefined;
}

/** The public services of one agent. Their calls throw ReasonedErrors. */
export interface AgentClient extends Disposable {
  readonly migrations: Client<MigrationServiceDefinition, CallSettings>;
  readonly domains: Client<DomainServiceDefinition, CallSettings>;
  readonly hosts: Client<HostServiceDefinition, CallSettings>;
}

/**
 * Prepares calls to an agent; the first call connects. Over the network any agent is accepted whose
 * certificate is of the CA and names a host.
 *
 * @throws ReasonedError `CONFIG_INVALID` where the certificate cannot be used
 */
export function connectAgent({ address, tls }: AgentAddress): AgentClient {
  const connection = new Connection(target(address, tls));
  return {
    migrations: connection.client(MigrationServiceDefinition, DEADLINES_MS),
    domains: connection.client(DomainServiceDefinition, DEADLINES_MS),
    hosts: connection.client(HostServiceDefinition, DEADLINES_MS),
    [Symbol.dispose]: () => connection.close(),
  };
}

function target(address: string, tls: TlsFiles | undefined) {
  if (address.startsWith('unix:')) return { socketPath: resolve(address.slice('unix:'.length)) };
  if (!tls) {
    throw new RpcError('CONFIG_INVALID', `Calling ${address} needs a certificate.`, {
      hint: 'Name a certificate, its key and the CA, or use the unix socket of the agent.',
    });
  }
  return { address, tls, host: undefined, unreachable: 'AGENT_UNREACHABLE' } as const;
}

import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DomainManager } from '../../src/domain/manager.js';
import type { WaitOptions } from '../../src/domain/types.js';
import { Peers } from '../../src/mesh/peers.js';
import type { MigrationManager } from '../../src/migration/migration.js';
import type { PeerHandler, PeerHeader } from '../../src/migration/peer.js';
import type { ResolvePort } from '../../src/migration/resolving.js';
import type { OwnershipPort } from '../../src/migration/who-runs.js';
import { type ConnectionLimits, DEFAULT_CONNECTION_LIMITS } from '../../src/rpc/limits.js';
import { PeerClients } from '../../src/rpc/peer-directory.js';
import type { HostPort } from '../../src/rpc/ports.js';
import { type RpcServer, startRpcServer } from '../../src/rpc/server.js';
import type { TlsSource } from '../../src/rpc/tls-material.js';
import { type AuditLog, noAudit } from '../../src/util/audit.js';
import type { Log } from '../../src/util/log.js';

/** A line that was logged. */
export interface LogLine {
  readonly level: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly message: string;
}

/** A log that remembers. */
export function memoryLog(): Log & { readonly lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: string) => (fields: object, message: string) => {
    lines.push({ level, fields: fields as Record<string, unknown>, message });
  };
  const log = {
    lines,
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: () => log,
  };
  return log;
}

/**
 * What a test says about the ports behind the services; a port not said fails when it is called.
 */
export interface FakePorts {
  /** Where to listen; the default is a free port of loopback. */
  readonly address?: string;
  readonly migrations?: Partial<MigrationManager>;
  readonly domains?: Partial<DomainManager>;
  readonly host?: Partial<HostPort>;
  readonly peer?: Partial<PeerHandler>;
  readonly ownership?: Partial<OwnershipPort>;
  readonly resolve?: Partial<ResolvePort>;
  readonly audit?: AuditLog;
  /** What it says that its version is. */
  readonly agentVersion?: string;
  /** What differs from the defaults. */
  readonly limits?: Partial<ConnectionLimits>;
}

/** An agent's gRPC side, real, in front of fake ports. */
export interface FakeAgent extends AsyncDisposable {
  readonly server: RpcServer;
  readonly address: string;
  readonly socketPath: string;
  readonly log: ReturnType<typeof memoryLog>;
}

/** Starts one on a free port of loopback and on a unix socket in a folder of its own. */
export async function startFakeAgent(tls: TlsSource, ports: FakePorts = {}): Promise<FakeAgent> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-agent-'));
  const socketPath = join(directory, 'drover.sock');
  const log = memoryLog();
  const server = await startRpcServer({
    address: ports.address ?? '127.0.0.1:0',
    socketPath,
    tls,
    agentVersion: ports.agentVersion ?? '0.0.0-test',
    log,
    audit: ports.audit ?? noAudit,
    limits: { ...DEFAULT_CONNECTION_LIMITS, ...ports.limits },
    ports: {
      migrations: unless<MigrationManager>(ports.migrations),
      domains: unless<DomainManager>(ports.domains),
      host: unless<HostPort>({
        facts: async () => HOST_FACTS,
        peers: async () => [],
        ...ports.host,
      }),
      peer: unless<PeerHandler>(ports.peer),
      ownership: unless<OwnershipPort>(ports.ownership),
      resolve: unless<ResolvePort>(ports.resolve),
    },
  });
  return {
    server,
    address: `127.0.0.1:${server.port}`,
    socketPath,
    log,
    [Symbol.asyncDispose]: async () => {
      await server.shutdown(200);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** The way from one host to another one at an address. */
export function peersOf(
  host: string,
  tls: TlsSource,
  peers: Readonly<Record<string, string>>,
): PeerClients {
  const list = Object.entries(peers).map(([name, address]) => ({ name, address }));
  return new PeerClients(new Peers(host, list), tls);
}

/** A header as a sound source sends it. */
export function fakeHeader(change: Partial<PeerHeader> = {}): PeerHeader {
  return {
    migrationId: randomUUID(),
    attempt: 1,
    domainUuid: randomUUID(),
    epoch: 1,
    generation: 1,
    sourceHost: 'host-a',
    destinationHost: 'host-b',
    sourceJournalId: 'journal-a',
    destinationJournalId: '',
    ...change,
  };
}

/** Options of a wait that the test's own time limit ends. */
export function patiently(): WaitOptions {
  return { signal: new AbortController().signal };
}

const HOST_FACTS = {
  name: 'host-b',
  qemuVersion: '10.0.2',
  qemuProblem: '',
  memoryBytes: 8 * 1024 ** 3,
  availableMemoryBytes: 4 * 1024 ** 3,
  cpus: 2,
  pools: [],
  kernels: [],
};

function unless<Port extends object>(said: Partial<Port> | undefined): Port {
  return new Proxy((said ?? {}) as Port, {
    get: (port, name) =>
      Reflect.get(port, name) ??
      (() => {
        throw new Error(`The test does not expect ${String(name)}.`);
      }),
  });
}

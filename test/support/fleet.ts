import { chmod, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AgentParts, type RunningAgent, startAgent } from '../../src/agent/agent.js';
import type { AgentConfig, KernelConfig } from '../../src/agent/config.js';
import { DEFAULT_LIMITS } from '../../src/agent/limits.js';
import { createLogger } from '../../src/agent/logger.js';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import type { StartMigrationRequest } from '../../src/gen/drover/v1/migration_service.js';
import { DEFAULT_LINK } from '../../src/migration/traffic.js';
import { LocalCarrier } from '../../src/rpc/carrier.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import { makeTestCertificates, type TestCertificates } from './certificates.js';
import { freePorts } from './free-ports.js';

/** How the hosts of a test are to be. */
export interface FleetOptions {
  /** What a host has instead of this machine's own, by host name. */
  readonly parts?: (host: string) => AgentParts;
  readonly kernels?: readonly KernelConfig[];
  /** A further pool, `common`, whose directory all hosts share. */
  readonly sharedPool?: boolean;
  /** Changes to the configuration of a host. */
  readonly config?: (host: string, config: AgentConfig) => AgentConfig;
}

/** One host of a test: its agent and a client that speaks to it as an operator. */
export interface TestHost {
  readonly name: string;
  readonly config: AgentConfig;
  readonly client: AgentClient;
  /** The folder of its pool `default`. */
  readonly pool: string;
  /** What its agent logged, one JSON line each. */
  readonly log: string[];
  /** Ends the agent as SIGTERM would; its QEMUs go on. */
  stop(): Promise<void>;
  /** Starts it again. */
  start(): Promise<void>;
  /** Makes the agent read its certificate files. */
  reloadCertificates(): void;
}

/**
 * Whole agents in this process, with real gRPC and mTLS on loopback, in a folder that is removed at
 * the end.
 */
export class Fleet implements AsyncDisposable {
  readonly folder: string;
  readonly certificates: TestCertificates;
  readonly #hosts = new Map<string, TestHost>();

  private constructor(folder: string, certificates: TestCertificates) {
    this.folder = folder;
    this.certificates = certificates;
  }

  static async start(names: readonly string[], options: FleetOptions = {}): Promise<Fleet> {
    const folder = await mkdtemp(join(tmpdir(), 'drover-'));
    // QEMUs run as users of their own, and must find what is theirs below.
    await chmod(folder, 0o711);
    const fleet = new Fleet(folder, await makeTestCertificates());
    const ports = await freePorts(names.length);
    const peers = names.map((name, i) => ({ name, address: `127.0.0.1:${ports[i]}` }));
    for (const name of names) {
      const config = await fleet.#config(name, peers, options);
      fleet.#hosts.set(name, await fleet.#host(config, options.parts?.(name) ?? {}));
    }
    await Promise.all(names.map((name) => fleet.host(name).start()));
    return fleet;
  }

  host(name: string): TestHost {
    const host = this.#hosts.get(name);
    if (!host) throw new Error(`There is no host ${name} in this fleet.`);
    return host;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of this.#hosts.values()) {
      await host.stop();
      host.client[Symbol.dispose]();
    }
    // QEMUs outlive their agents; those of a failed test must not outlive the test.
    for (const pid of await pidsMentioning(this.folder)) killIfThere(pid);
    await this.certificates[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true });
  }

  async #config(
    host: string,
    peers: readonly { name: string; address: string }[],
    options: FleetOptions,
  ): Promise<AgentConfig> {
    const home = join(this.folder, host);
    const pool = join(home, 'pool');
    const common = join(this.folder, 'common');
    await mkdir(join(pool, 'images'), { recursive: true });
    if (options.sharedPool) await mkdir(join(common, 'images'), { recursive: true });
    const config: AgentConfig = {
      host,
      listen: {
        address: peers.find(({ name }) => name === host)?.address ?? '127.0.0.1:0',
        unix: join(home, 'drover.sock'),
      },
      tls: await this.certificates.host(host),
      directories: { state: join(home, 'state'), run: join(home, 'run') },
      limits: DEFAULT_LIMITS,
      link: DEFAULT_LINK,
      data: { address: '127.0.0.1', ports: { first: 49_500, last: 49_599 }, streamPort: 0 },
      qemu: { uids: { first: 400_000, last: 465_535 } },
      pools: [
        { name: 'default', path: pool, shared: false },
        ...(options.sharedPool ? [{ name: 'common', path: common, shared: true }] : []),
      ],
      kernels: options.kernels ?? [],
      networks: { bridges: ['br0', 'nobridge0'], user: true },
      peers: peers.filter(({ name }) => name !== host),
    };
    return options.config?.(host, config) ?? config;
  }

  async #host(config: AgentConfig, parts: AgentParts): Promise<TestHost> {
    const log: string[] = [];
    const level = process.env['DROVER_LOG'] ?? 'debug';
    const stream = { write: (line: string) => void log.push(line) };
    const logger = createLogger({ host: config.host }, { DROVER_LOG: level }, stream);
    let agent: RunningAgent | undefined;
    const client = connectAgent({
      address: config.listen.address,
      tls: await this.certificates.operator('test'),
    });
    return {
      name: config.host,
      config,
      client,
      pool: config.pools[0]?.path ?? '',
      log,
      start: async () => {
        agent ??= await startAgent(config, logger, {
          carrier: (settings) => new LocalCarrier(settings),
          ...parts,
        });
      },
      stop: async () => {
        await agent?.close();
        agent = undefined;
      },
      reloadCertificates: () => agent?.reloadCertificates(),
    };
  }
}

/** Moves a domain and answers the last snapshot, whatever the outcome. */
export async function migrate(
  source: Pick<TestHost, 'client'>,
  domain: string,
  destinationHost: string,
  onChange: (migration: Migration) => void = () => {},
  wishes: Partial<StartMigrationRequest> = {},
): Promise<Migration> {
  const request = { domain, destinationHost, ...wishes };
  const { migration } = await source.client.migrations.startMigration(request);
  return await watchToEnd(source, migration?.migrationId ?? '', onChange);
}

/** Follows a migration to its end. */
export async function watchToEnd(
  host: Pick<TestHost, 'client'>,
  migrationId: string,
  onChange: (migration: Migration) => void = () => {},
): Promise<Migration> {
  let last: Migration | undefined;
  for await (const { migration } of host.client.migrations.watchMigration({ migrationId })) {
    last = migration;
    if (migration) onChange(migration);
  }
  if (!last) throw new Error('The watch ended without a migration.');
  return last;
}

/** Processes whose command line names something in a folder; a QEMU names its sockets there. */
async function pidsMentioning(folder: string): Promise<number[]> {
  const pids = (await readdir('/proc')).map(Number).filter((pid) => pid > 1 && pid !== process.pid);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const line = await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '');
      return line.includes('qemu') && line.includes(`${folder}/`) ? [pid] : [];
    }),
  );
  return found.flat();
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

import { randomFillSync } from 'node:crypto';
import { rmSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { AgentConfig } from '../../src/agent/config.js';
import { DEFAULT_LIMITS } from '../../src/agent/limits.js';
import { DomainSpec } from '../../src/gen/drover/v1/domain.js';
import { DEFAULT_LINK } from '../../src/migration/traffic.js';
import { createBootSectorImage } from '../support/blocks.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import { freePorts } from '../support/free-ports.js';
import { ChaosHost, type Effect, signal } from './host.js';
import { type Traffic, Way } from './proxy.js';

const MIB = 1024 ** 2;
/** What the guest itself needs of a disk. */
const GUEST_MIB = 5;
const HOSTS = ['alpha', 'beta'] as const;

/** The name of one of the two hosts. */
export type HostName = (typeof HOSTS)[number];

/** How the hosts and their guest are to be. */
export interface FleetSetup {
  /** Main module of the agent under test. */
  readonly program: string;
  readonly disks: number;
  readonly diskMib: number;
  /** How much of each disk is data that must be copied; the rest reads as zeros. */
  readonly dataMib?: number;
  /** The most that RAM is sent with until the fault strikes, in bytes per second. */
  readonly ramBandwidth?: number;
}

/** Every fleet that has been begun and not yet ended, for a process that ends at once. */
const begun = new Set<ChaosFleet>();
process.once('exit', () => {
  for (const fleet of begun) fleet.abandon();
});

/** Two hosts with agents under test, every way between them in the hands of the driver. */
export class ChaosFleet implements AsyncDisposable {
  readonly folder: string;
  readonly setup: FleetSetup;
  readonly #certificates: TestCertificates;
  readonly #hosts = new Map<string, ChaosHost>();
  readonly #ways = new Map<string, Way>();
  /** Hears every effect of both agents. */
  onEffect: (effect: Effect) => void = () => {};
  /** Hears the labels of the traces. */
  onLabel: (host: string, migrationId: string, label: string) => void = () => {};
  uuid = '';

  private constructor(folder: string, setup: FleetSetup, certificates: TestCertificates) {
    this.folder = folder;
    this.setup = setup;
    this.#certificates = certificates;
  }

  static async start(setup: FleetSetup): Promise<ChaosFleet> {
    const folder = await mkdtemp(join(tmpdir(), 'drover-chaos-'));
    // QEMUs run as users of their own, and must find what is theirs below.
    await chmod(folder, 0o711);
    const fleet = new ChaosFleet(folder, setup, await makeTestCertificates());
    begun.add(fleet);
    try {
      await fleet.#start();
      return fleet;
    } catch (error) {
      await fleet[Symbol.asyncDispose]();
      throw error;
    }
  }

  host(name: string): ChaosHost {
    const host = this.#hosts.get(name);
    if (!host) throw new Error(`There is no host ${name}.`);
    return host;
  }

  get hosts(): readonly ChaosHost[] {
    return [...this.#hosts.values()];
  }

  other(name: HostName): HostName {
    return name === 'alpha' ? 'beta' : 'alpha';
  }

  /** The way of one kind of traffic from one host to the other. */
  way(from: HostName, traffic: Traffic): Way {
    const way = this.#ways.get(`${from} ${traffic}`);
    if (!way) throw new Error(`There is no way for ${traffic} from ${from}.`);
    return way;
  }

  heal(): void {
    for (const way of this.#ways.values()) way.heal();
  }

  /** Makes and starts a guest on a host. */
  async run(host: HostName): Promise<string> {
    const { disks, diskMib, dataMib = 0 } = this.setup;
    for (const name of HOSTS) {
      const path = join(this.folder, name, 'pool', 'images', 'boot.raw');
      await createBootSectorImage(path, diskMib * MIB);
      await fill(path, dataMib);
    }
    const spec = DomainSpec.fromPartial({
      name: 'web',
      memoryBytes: 32 * MIB,
      accelerator: 'tcg',
      serial: { type: 'file' },
      disks: Array.from({ length: disks }, (_, index) => ({
        id: `disk${index}`,
        image: 'boot.raw',
        cache: 'writethrough',
      })),
    });
    const { client } = this.host(host);
    await client.domains.createDomain({ spec });
    const { domain } = await client.domains.startDomain({ domain: 'web' });
    this.uuid = domain?.spec?.uuid ?? '';
    return this.uuid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    for (const host of this.hosts) {
      await host.killAgent();
      host.client[Symbol.dispose]();
    }
    this.kill();
    for (const way of this.#ways.values()) await way[Symbol.asyncDispose]();
    await this.#certificates[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 3 });
    begun.delete(this);
  }

  /** Ends every process of the fleet at once. */
  kill(): void {
    for (const host of this.hosts) {
      if (host.agentLives) signal(host.agentPid, 'SIGKILL');
      for (const pid of host.pids()) signal(pid, 'SIGKILL');
    }
  }

  /** The same, and removes the folder. */
  abandon(): void {
    this.kill();
    rmSync(this.folder, { recursive: true, force: true });
    rmSync(this.#certificates.directory, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    const ports = await freePorts(HOSTS.length);
    const operator = await this.#certificates.operator('chaos');
    for (const [index, name] of HOSTS.entries()) {
      for (const traffic of ['control', 'ram', 'nbd'] as const) {
        // From this host to the other's agent; the target of disks and RAM is told later.
        const way = await Way.open(ports[1 - index] ?? 0);
        this.#ways.set(`${name} ${traffic}`, way);
      }
    }
    for (const [index, name] of HOSTS.entries()) {
      const home = join(this.folder, name);
      const other = this.other(name);
      const consoles = join(home, 'consoles');
      await mkdir(consoles, { recursive: true });
      await mkdir(join(home, 'pool', 'images'), { recursive: true });
      const address = `127.0.0.1:${ports[index]}`;
      const peer = { name: other, address: `127.0.0.1:${this.way(name, 'control').port}` };
      const config: AgentConfig = {
        host: name,
        listen: { address, unix: join(home, 'drover.sock') },
        tls: await this.#certificates.host(name),
        directories: { state: join(home, 'state'), run: join(home, 'run') },
        limits: DEFAULT_LIMITS,
        link: DEFAULT_LINK,
        data: { address: '127.0.0.1', ports: { first: 49_500, last: 49_599 }, streamPort: 0 },
        qemu: { uids: { first: 400_000, last: 465_535 } },
        pools: [{ name: 'default', path: join(home, 'pool'), shared: false }],
        kernels: [],
        networks: { bridges: [], user: false },
        peers: [peer],
      };
      const configFile = join(home, 'agent.yaml');
      const data = { address: '127.0.0.1', ports: '49500-49599', stream_port: 0 };
      // What has the value of the default anyway.
      const file = { ...config, limits: undefined, link: undefined, qemu: undefined, data };
      await writeFile(configFile, stringify(file));
      const host = new ChaosHost({
        config,
        configFile,
        setup: { consoles },
        operator,
        program: this.setup.program,
        home,
        onEffect: (effect) => this.onEffect(effect),
        onLabel: (...label) => this.onLabel(...label),
        route: (traffic, port) => {
          const way = this.way(name, traffic);
          way.target = port;
          return way.port;
        },
      });
      this.#hosts.set(name, host);
    }
    await Promise.all(this.hosts.map((host) => host.start()));
  }
}

/** Puts data behind the blocks that the guest writes. */
async function fill(path: string, mib: number): Promise<void> {
  await using file = await open(path, 'r+');
  const data = Buffer.alloc(MIB);
  for (let index = 0; index < mib; index++) {
    await file.write(randomFillSync(data), 0, MIB, (GUEST_MIB + index) * MIB);
  }
}

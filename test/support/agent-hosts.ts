import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { rescueFolder } from '../../src/agent/rescue.js';
import { DomainSpec } from '../../src/gen/drover/v1/domain.js';
import { signalProcess } from '../../src/process/proc.js';
import { readHolder } from '../../src/process/state-lock.js';
import { QmpClient } from '../../src/qmp/client.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import { createBootSectorImage } from './blocks.js';
import { makeTestCertificates, type TestCertificates } from './certificates.js';
import { freePorts } from './free-ports.js';

const MIB = 1024 ** 2;
const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const HOLD = new URL('./hold-journal.ts', import.meta.url).href;

/** One host whose agent is a process of its own, as `drover agent` starts it. */
export interface AgentHost {
  /** How it was started. */
  readonly plan: HostPlan;
  readonly agent: ChildProcess;
  readonly client: AgentClient;
  readonly state: string;
  readonly run: string;
  readonly pool: string;
  /** Resolves when the migration stands still where it was told to. */
  readonly held: Promise<void>;
}

/** Two hosts on loopback, with real QEMUs under TCG, in a folder that is removed at the end. */
export class AgentHosts implements AsyncDisposable {
  source: AgentHost;
  readonly destination: AgentHost;
  readonly #folder: string;
  readonly #certificates: TestCertificates;

  private constructor(
    folder: string,
    certificates: TestCertificates,
    [source, destination]: readonly AgentHost[],
  ) {
    if (!source || !destination) throw new Error('There must be two hosts.');
    this.#folder = folder;
    this.#certificates = certificates;
    this.source = source;
    this.destination = destination;
  }

  /** @param hold Where a migration from alpha stands still, as in "after SWITCHING". */
  static async start(hold: string): Promise<AgentHosts> {
    const folder = await mkdtemp(join(tmpdir(), 'drover-agents-'));
    // QEMUs run as users of their own, and must find what is theirs below.
    await chmod(folder, 0o711);
    const certificates = await makeTestCertificates();
    const ports = await freePorts(2);
    const peers = ['alpha', 'beta'].map((name, i) => ({ name, address: `127.0.0.1:${ports[i]}` }));
    const hosts = await Promise.all(
      peers.map(({ name, address }) =>
        startHost({
          name,
          address,
          peers,
          folder,
          certificates,
          hold: name === 'alpha' ? hold : '',
        }),
      ),
    );
    return new AgentHosts(folder, certificates, hosts);
  }

  /** Starts a guest on the source, begins to move it, and resolves when that stands still. */
  async moveUntilHeld(): Promise<{ readonly uuid: string; readonly migrationId: string }> {
    const { client, held } = this.source;
    for (const host of [this.source, this.destination]) {
      await createBootSectorImage(join(host.pool, 'images', 'boot.raw'), 8 * MIB);
    }
    const spec = DomainSpec.fromPartial({
      name: 'web',
      memoryBytes: 32 * MIB,
      accelerator: 'tcg',
      serial: { type: 'file' },
      disks: [{ id: 'disk0', image: 'boot.raw', cache: 'writethrough' }],
    });
    await client.domains.createDomain({ spec });
    const { domain } = await client.domains.startDomain({ domain: 'web' });
    const request = { domain: 'web', destinationHost: 'beta' };
    const { migration } = await client.migrations.startMigration(request);
    await held;
    return { uuid: domain?.spec?.uuid ?? '', migrationId: migration?.migrationId ?? '' };
  }

  /** Starts the agent of the source again, which is gone. Nothing stands still from here on. */
  async restartSource(): Promise<void> {
    this.source.client[Symbol.dispose]();
    this.source = await startHost({ ...this.source.plan, hold: '' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { agent, client, run } of [this.source, this.destination]) {
      client[Symbol.dispose]();
      await endProcess(agent);
      const rescue = await readHolder(rescueFolder(run));
      if (rescue) signalProcess(rescue, 'SIGKILL');
      killQemus(run);
    }
    await this.#certificates[Symbol.asyncDispose]();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Connects to the second monitor of a QEMU of a host. */
export function rescueMonitor({ run }: AgentHost, uuid: string): Promise<QmpClient> {
  return QmpClient.connect(join(run, uuid, 'rescue.sock'));
}

interface HostPlan {
  readonly name: string;
  readonly address: string;
  readonly peers: readonly { readonly name: string; readonly address: string }[];
  readonly folder: string;
  readonly certificates: TestCertificates;
  readonly hold: string;
}

async function startHost(plan: HostPlan): Promise<AgentHost> {
  const { name, address, peers, folder, certificates, hold } = plan;
  const home = join(folder, name);
  const [state, run, pool] = [join(home, 'state'), join(home, 'run'), join(home, 'pool')];
  await mkdir(join(pool, 'images'), { recursive: true });
  const config = {
    host: name,
    listen: { address, unix: join(home, 'drover.sock') },
    tls: await certificates.host(name),
    directories: { state, run },
    data: { address: '127.0.0.1', stream_port: 0 },
    pools: [{ name: 'default', path: pool }],
    peers: peers.filter((peer) => peer.name !== name),
  };
  const file = join(home, 'agent.yaml');
  await writeFile(file, stringify(config));
  const log = openSync(join(home, 'agent.log'), 'a');
  const argv = ['--import', 'tsx', '--import', HOLD, MAIN, 'agent', '--config', file];
  const agent = spawn(process.execPath, argv, {
    env: { ...process.env, DROVER_TEST_HOLD: hold },
    stdio: ['ignore', 'pipe', log],
  });
  closeSync(log);
  const lines = createInterface({ input: agent.stdout as NodeJS.ReadableStream });
  const held = line(lines, 'held');
  const ended = once(agent, 'exit').then(() => {
    throw new Error(`The agent ended: ${readFileSync(join(home, 'agent.log'), 'utf8')}`);
  });
  ended.catch(() => undefined);
  await Promise.race([line(lines, 'drover agent'), ended]);
  const operator = await certificates.operator('test');
  const client = connectAgent({ address, tls: operator });
  return { plan, agent, client, state, run, pool, held };
}

function line(lines: Interface, beginning: string): Promise<void> {
  return new Promise((resolve) => {
    lines.on('line', (text) => {
      if (text.startsWith(beginning)) resolve();
    });
  });
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

/** QEMUs outlive their agents; each has a pid file in its folder. */
function killQemus(run: string): void {
  for (const uuid of readdirSync(run)) {
    try {
      const pid = Number(readFileSync(join(run, uuid, 'qemu.pid'), 'utf8'));
      if (!readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(run)) continue;
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has gone by itself.
    }
  }
}

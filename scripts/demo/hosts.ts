import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { initAuthority } from '../../src/pki/authority.js';
import { issue } from '../../src/pki/issue.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import type { Role } from '../../src/rpc/identity.js';
import type { TlsFiles } from '../../src/rpc/tls-material.js';
import { freePorts } from '../../test/support/free-ports.js';
import type { LinuxGuest } from '../guest/linux-guest.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** As in the first line of src/main.ts. */
const NODE_OPTIONS = ['--max-semi-space-size=2'];
/** What shells say of a program that Ctrl-C has ended. */
const INTERRUPTED = 130;
const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

/** One host of the demo: an agent as a process of its own, as on a real host. */
export interface DemoHost {
  readonly name: string;
  readonly port: number;
  readonly client: AgentClient;
  /** The folder of its only pool. */
  readonly pool: string;
  /** What its agent keeps. */
  readonly stateDirectory: string;
  /** A folder for each QEMU. */
  readonly runDirectory: string;
  /** The process of its agent. */
  readonly agentPid: number;
}

/** How the agents are started. */
export interface DemoOptions {
  /** A module that each agent loads before itself. */
  readonly preload?: string;
  /** Added to the environment of an agent; `folder` is the one of all hosts. */
  readonly environment?: (host: string, folder: string) => NodeJS.ProcessEnv;
}

/** Two hosts on loopback, in a folder that is removed at the end. */
export class DemoHosts implements AsyncDisposable {
  readonly folder: string;
  readonly #agents: ChildProcess[] = [];
  readonly #hosts: DemoHost[] = [];
  readonly #options: DemoOptions;
  #interrupted = false;

  private constructor(folder: string, options: DemoOptions) {
    this.folder = folder;
    this.#options = options;
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
    process.once('exit', this.#onExit);
  }

  /** Makes certificates and configurations and starts the agents. */
  static async start(
    names: readonly string[],
    guest: LinuxGuest,
    options: DemoOptions = {},
  ): Promise<DemoHosts> {
    const hosts = new DemoHosts(await mkdtemp(join(tmpdir(), 'drover-demo-')), options);
    // QEMUs run as users of their own, and must find what is theirs below.
    await chmod(hosts.folder, 0o711);
    try {
      await hosts.#start(names, guest);
      return hosts;
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  get(name: string): DemoHost {
    const host = this.#hosts.find((known) => known.name === name);
    if (!host) throw new Error(`There is no host ${name}.`);
    return host;
  }

  /**
   * True once a signal has told this process to end: what fails from then on fails because of that.
   */
  get interrupted(): boolean {
    return this.#interrupted;
  }

  get all(): readonly DemoHost[] {
    return this.#hosts;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.#hosts) {
      await stopDomains(client);
      client[Symbol.dispose]();
    }
    await Promise.all(
      this.#agents.map(async (agent) => {
        if (agent.exitCode !== null || agent.signalCode !== null) return;
        agent.kill('SIGTERM');
        await once(agent, 'exit');
      }),
    );
    // An agent does not stop a domain that is just being moved.
    for (const { runDirectory } of this.#hosts) killQemus(runDirectory);
    await rm(this.folder, { recursive: true, force: true });
    for (const signal of SIGNALS) process.off(signal, this.#onSignal);
    process.off('exit', this.#onExit);
  }

  // QEMUs outlive their agents by design, so this process must not end without ending them.
  readonly #onExit = (): void => {
    for (const agent of this.#agents) agent.kill('SIGKILL');
    for (const { runDirectory } of this.#hosts) killQemus(runDirectory);
    rmSync(this.folder, { recursive: true, force: true });
  };

  readonly #onSignal = (): void => {
    const bye = () => process.exit(INTERRUPTED);
    // Who asks twice does not want to wait.
    if (this.#interrupted) bye();
    this.#interrupted = true;
    this[Symbol.asyncDispose]().then(bye, bye);
  };

  async #start(names: readonly string[], guest: LinuxGuest): Promise<void> {
    const certificates = join(this.folder, 'certs');
    await initAuthority({ directory: certificates, trustDomain: 'drover.test', days: 2 });
    const leaf = async (role: Role, name: string): Promise<TlsFiles> => {
      const issued = await issue({ directory: certificates, role, name, days: 1 });
      const { certificateFile, keyFile = '', caFile } = issued;
      return { certificate: certificateFile, key: keyFile, ca: caFile };
    };
    const operator = await leaf('operator', 'operator');
    const ports = await freePorts(names.length);
    // Where they come from, the users of QEMUs may not be able to read them.
    const [kernel, initrd] = [join(this.folder, 'kernel'), join(this.folder, 'initramfs')];
    await copyReadable(guest.kernelPath, kernel);
    await copyReadable(guest.initramfsPath, initrd);
    const peers = names.map((name, i) => ({ name, address: `127.0.0.1:${ports[i]}` }));
    for (const [i, name] of names.entries()) {
      const home = join(this.folder, name);
      const pool = join(home, 'pool');
      await mkdir(pool, { recursive: true });
      await chmod(home, 0o711);
      const config = {
        host: name,
        listen: { address: peers[i]?.address, unix: join(home, 'drover.sock') },
        tls: await leaf('host', name),
        directories: { state: join(home, 'state'), run: join(home, 'run') },
        data: { address: '127.0.0.1', stream_port: 0 },
        pools: [{ name: 'default', path: pool }],
        kernels: [
          {
            name: 'linux',
            kernel,
            initrd,
            arguments: guest.commandLine,
          },
        ],
        peers: peers.filter((peer) => peer.name !== name),
      };
      const file = join(home, 'agent.yaml');
      await writeFile(file, stringify(config));
      const agentPid = await this.#startAgent(name, file, join(home, 'agent.log'));
      const client = connectAgent({ address: peers[i]?.address ?? '', tls: operator });
      const port = ports[i] ?? 0;
      const { state: stateDirectory, run: runDirectory } = config.directories;
      this.#hosts.push({ name, port, client, pool, stateDirectory, runDirectory, agentPid });
    }
  }

  // The agent says on stdout when it is ready; an agent that ends instead has said why on stderr.
  async #startAgent(host: string, config: string, logFile: string): Promise<number> {
    await using log = await open(logFile, 'a');
    const main = join(CHECKOUT, 'src/main.ts');
    const { preload, environment } = this.#options;
    const imports = ['tsx', ...(preload === undefined ? [] : [preload])];
    const argv = [...NODE_OPTIONS, ...imports.flatMap((name) => ['--import', name]), main, 'agent'];
    const agent = spawn(process.execPath, [...argv, '--config', config], {
      cwd: CHECKOUT,
      env: { ...process.env, ...environment?.(host, this.folder) },
      stdio: ['ignore', 'pipe', log.fd],
      // The terminal's Ctrl-C is for this process, which ends the domains while the agents still
      // answer.
      detached: true,
    });
    this.#agents.push(agent);
    const lines = createInterface({ input: agent.stdout as NodeJS.ReadableStream });
    const ready = once(lines, 'line');
    const ended = once(agent, 'exit').then(() => {
      throw new Error(`An agent ended at once; see ${logFile}.`);
    });
    await Promise.race([ready, ended]);
    ended.catch(() => undefined);
    return agent.pid ?? 0;
  }
}

async function copyReadable(from: string, to: string): Promise<void> {
  await copyFile(from, to, constants.COPYFILE_FICLONE);
  await chmod(to, 0o644);
}

/** Kills every QEMU that has a pid file below a folder and that folder in its command line. */
function killQemus(runDirectory: string): void {
  if (!existsSync(runDirectory)) return;
  for (const uuid of readdirSync(runDirectory)) {
    try {
      const pid = Number(readFileSync(join(runDirectory, uuid, 'qemu.pid'), 'utf8'));
      if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(runDirectory)) continue;
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has gone by itself.
    }
  }
}

export async function stopDomains(client: AgentClient): Promise<void> {
  const { domains } = await client.domains.listDomains({}).catch(() => ({ domains: [] }));
  for (const { spec, qemuPid } of domains) {
    if (!qemuPid) continue;
    await client.domains
      .stopDomain({ domain: spec?.uuid ?? '', force: true })
      .catch(() => undefined);
  }
}

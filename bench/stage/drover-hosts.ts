import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { stopDomains } from '../../scripts/demo/hosts.js';
import type { LinuxGuest } from '../../scripts/guest/linux-guest.js';
import { initAuthority } from '../../src/pki/authority.js';
import { issue } from '../../src/pki/issue.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import { HOST_NAMES, type HostName, type Network, otherHost } from './network.js';

/** As in the first line of src/main.ts. */
const NODE_OPTIONS = ['--max-semi-space-size=2'];
const BUILT = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
const PORT = 7443;

/** One host with its agent. */
export interface DroverHost {
  readonly name: HostName;
  readonly client: AgentClient;
  readonly pool: string;
  readonly stateDirectory: string;
  readonly runDirectory: string;
  readonly agentPid: number;
}

/** An agent on each host of a network, built and started as on a real host. */
export class DroverHosts implements AsyncDisposable {
  readonly #network: Network;
  readonly #folder: string;
  readonly #agents: ChildProcess[] = [];
  readonly #hosts = new Map<HostName, DroverHost>();

  private constructor(network: Network, folder: string) {
    this.#network = network;
    this.#folder = folder;
  }

  /** Starts the agents; `folder` is theirs and must be one that users of QEMUs can enter. */
  static async start(network: Network, folder: string, guest: LinuxGuest): Promise<DroverHosts> {
    const program = process.env['DROVER_BENCH_PROGRAM'] ?? BUILT;
    if (!existsSync(program)) throw new Error(`${program} is missing: run npm run build`);
    const hosts = new DroverHosts(network, folder);
    try {
      await hosts.#start(program, guest);
      return hosts;
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  get(name: HostName): DroverHost {
    const host = this.#hosts.get(name);
    if (!host) throw new Error(`There is no agent on ${name}.`);
    return host;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.#hosts.values()) {
      await stopDomains(client);
      client[Symbol.dispose]();
    }
    for (const agent of this.#agents) {
      if (agent.exitCode !== null || agent.signalCode !== null) continue;
      agent.kill('SIGTERM');
      await once(agent, 'exit');
    }
  }

  async #start(program: string, guest: LinuxGuest): Promise<void> {
    const certificates = join(this.#folder, 'certs');
    await mkdir(this.#folder, { recursive: true });
    await chmod(this.#folder, 0o711);
    await initAuthority({ directory: certificates, trustDomain: 'drover.test', days: 2 });
    const [kernel, initrd] = [join(this.#folder, 'kernel'), join(this.#folder, 'initramfs')];
    await copyFile(guest.kernelPath, kernel);
    await copyFile(guest.initramfsPath, initrd);
    for (const path of [kernel, initrd]) await chmod(path, 0o644);
    for (const name of HOST_NAMES) {
      const home = join(this.#folder, name);
      const pool = join(home, 'pool');
      await mkdir(pool, { recursive: true });
      await chmod(home, 0o711);
      const unix = join(home, 'drover.sock');
      const directories = { state: join(home, 'state'), run: join(home, 'run') };
      const { certificateFile, keyFile, caFile } = await issue({
        ...{ directory: certificates, role: 'host', name, days: 1 },
      });
      const peer = otherHost(name);
      const config = {
        host: name,
        listen: { address: `${this.#network.address(name)}:${PORT}`, unix },
        tls: { certificate: certificateFile, key: keyFile, ca: caFile },
        directories,
        data: { address: this.#network.address(name) },
        pools: [{ name: 'default', path: pool }],
        kernels: [{ name: 'linux', kernel, initrd, arguments: guest.commandLine }],
        peers: [{ name: peer, address: `${this.#network.address(peer)}:${PORT}` }],
      };
      const file = join(home, 'agent.yaml');
      await writeFile(file, stringify(config));
      const agentPid = await this.#startAgent(program, name, file, join(home, 'agent.log'));
      const client = connectAgent({ address: `unix:${unix}`, tls: undefined });
      const { state: stateDirectory, run: runDirectory } = directories;
      this.#hosts.set(name, { name, client, pool, stateDirectory, runDirectory, agentPid });
    }
  }

  async #startAgent(
    program: string,
    host: HostName,
    config: string,
    logFile: string,
  ): Promise<number> {
    await using log = await open(logFile, 'a');
    const [enter, ...argv] = this.#network.enter(host);
    const profiles = process.env['DROVER_BENCH_PROFILES'];
    const profiling = profiles === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profiles}`];
    const options = [...NODE_OPTIONS, ...profiling];
    const command = [process.execPath, ...options, program, 'agent', '--config', config];
    const agent = spawn(enter, [...argv, ...command], {
      stdio: ['ignore', 'pipe', log.fd],
      detached: true,
    });
    this.#agents.push(agent);
    const lines = createInterface({ input: agent.stdout as NodeJS.ReadableStream });
    const ended = once(agent, 'exit').then(() => {
      throw new Error(`An agent ended at once; see ${logFile}.`);
    });
    await Promise.race([once(lines, 'line'), ended]);
    ended.catch(() => undefined);
    return agent.pid ?? 0;
  }
}

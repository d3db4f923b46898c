import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Writable } from 'node:stream';
import type { AgentConfig } from '../../src/agent/config.js';
import { QmpClient } from '../../src/qmp/client.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import { type Deferred, deferred } from '../../src/util/deferred.js';
import type { AgentSetup, Answer, Arm, DiskFault, Note } from './protocol.js';

/** A rescue process may hold the state for a while. */
const START_LIMIT_MS = 25_000;

/** An effect as the driver hears of it. */
export interface Effect {
  readonly host: string;
  /** Counts the lives of the agent, from 1. */
  readonly life: number;
  readonly name: string;
  readonly nth: number;
  readonly atMs: number;
  readonly armed: boolean;
  readonly detail: unknown;
}

/** What a host is made of. */
export interface HostParts {
  readonly config: AgentConfig;
  readonly configFile: string;
  readonly setup: Omit<AgentSetup, 'root'>;
  readonly operator: { readonly certificate: string; readonly key: string; readonly ca: string };
  /** Main module of the agent under test. */
  readonly program: string;
  readonly home: string;
  onEffect(effect: Effect): void;
  /** Hears the labels of a trace: events and records of the handover, and ends of the agent. */
  onLabel(host: string, migrationId: string, label: string): void;
  /** Answers at which port of the driver that of the other host is reached from here. */
  route(traffic: 'ram' | 'nbd', port: number): number;
}

/** One host: its agent as a process of its own, and whatever processes belong to it. */
export class ChaosHost {
  readonly name: string;
  readonly parts: HostParts;
  readonly client: AgentClient;
  #agent: ChildProcess | undefined;
  #orders = new Map<number, Deferred<void>>();
  #nextOrder = 1;
  /** The question that the agent stands still for. */
  #held: number | undefined;
  life = 0;
  /** What stands before `/etc`, `/proc` and the like for the agent. */
  #root = '/';
  #ending: 'crash' | 'power-loss' = 'crash';

  constructor(parts: HostParts) {
    this.parts = parts;
    this.name = parts.config.host;
    this.client = connectAgent({ address: parts.config.listen.address, tls: parts.operator });
  }

  get agentPid(): number {
    return this.#agent?.pid ?? 0;
  }

  get agentLives(): boolean {
    return this.#agent !== undefined;
  }

  /** Starts the agent; resolves when it serves. */
  async start(): Promise<void> {
    if (this.#agent) return;
    const { program, configFile, setup, home } = this.parts;
    const log = openSync(join(home, 'agent.log'), 'a');
    const agent = spawn(process.execPath, ['--enable-source-maps', program, configFile], {
      env: {
        ...process.env,
        DROVER_CHAOS: JSON.stringify({ ...setup, root: this.#root }),
        DROVER_LOG: process.env['DROVER_LOG'] ?? 'debug',
      },
      stdio: ['ignore', log, log, 'pipe', 'pipe', 'ipc'],
      detached: true,
    });
    closeSync(log);
    this.#agent = agent;
    this.#ending = 'crash';
    this.#held = undefined;
    const life = ++this.life;
    const ready = deferred<void>();
    const lines = createInterface({ input: agent.stdio[3] as NodeJS.ReadableStream });
    lines.on('line', (line) => this.#hear(JSON.parse(line) as Note, life, ready));
    (agent.stdio[4] as Writable).on('error', () => undefined);
    agent.on('error', () => undefined);
    const failed = once(agent, 'exit').then(() => {
      if (this.#agent === agent) this.#agent = undefined;
      this.parts.onLabel(this.name, '', this.#ending);
      for (const order of this.#orders.values()) order.resolve();
      this.#orders.clear();
      throw new Error(`The agent of ${this.name} ended; see ${home}/agent.log.`);
    });
    failed.catch(() => undefined);
    const late = AbortSignal.timeout(START_LIMIT_MS);
    const overdue = once(late, 'abort').then(() => {
      throw new Error(`The agent of ${this.name} did not start in time.`);
    });
    overdue.catch(() => undefined);
    await Promise.race([ready.promise, failed, overdue]);
  }

  /** Sets what is to happen at which effects, and lets all of them be counted anew. */
  async order(arms: readonly Arm[], disks?: DiskFault, ramBandwidth = 0): Promise<void> {
    const id = this.#nextOrder++;
    const done = deferred<void>();
    this.#orders.set(id, done);
    this.#agent?.send({ id, arms, disks, ramBandwidth });
    await done.promise;
  }

  /** Lets an agent go on that stands still at an armed effect. */
  release(): void {
    if (this.#held !== undefined) this.#answer({ question: this.#held });
    this.#held = undefined;
  }

  /** Ends the agent at once and waits until it is gone. */
  async killAgent(): Promise<void> {
    const agent = this.#agent;
    if (!agent) return;
    const gone = once(agent, 'exit');
    agent.kill('SIGKILL');
    await gone;
  }

  /** Ends all processes of this host at once. */
  async losePower(): Promise<void> {
    this.#ending = 'power-loss';
    for (const pid of this.pids()) signal(pid, 'SIGKILL');
    await this.killAgent();
    // The agent may have started one just then.
    for (const pid of this.pids()) signal(pid, 'SIGKILL');
  }

  /** How often the rescue process has freed a guest since this host has started. */
  get rescues(): number {
    const path = join(this.parts.config.directories.run, 'rescue', 'rescue.log');
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    return text.split('freed the guests').length - 1;
  }

  /** Every QEMU of this host that lives, by pid. */
  qemuPids(): number[] {
    return this.pids().filter((pid) => commandLine(pid).includes('qemu-system'));
  }

  /** Every process whose command line names this host's folders, besides its agent. */
  pids(): number[] {
    return readdirSync('/proc')
      .map(Number)
      .filter((pid) => pid > 1 && pid !== process.pid && pid !== this.agentPid)
      .filter((pid) => commandLine(pid).includes(`${this.parts.home}/`));
  }

  /** The process that watches over the agent. */
  isRescue(pid: number): boolean {
    return commandLine(pid).includes(' rescue --state ');
  }

  /**
   * What a host does when it starts again: it gets another boot id, and what is kept below /run is
   * gone. Its rescue process is not told, and is of no use from then on.
   */
  async boot(): Promise<void> {
    const { config, home } = this.parts;
    this.#root = join(home, 'root');
    const folder = join(this.#root, 'proc/sys/kernel/random');
    await mkdir(folder, { recursive: true });
    for (const name of ['etc', 'sys', 'dev']) {
      await symlink(`/${name}`, join(this.#root, name)).catch(() => undefined);
    }
    await writeFile(join(folder, 'boot_id'), `${randomUUID()}\n`);
    await rm(config.directories.run, { recursive: true, force: true });
  }

  /** The folders of a domain's QEMUs, those of later attempts last. */
  runFolders(uuid: string): string[] {
    const { run } = this.parts.config.directories;
    const names = existsSync(run) ? readdirSync(run) : [];
    return names.filter((name) => name === uuid || name.startsWith(`${uuid}.`)).sort();
  }

  /** The process whose folder this is; 0 where there is none. */
  pidIn(folder: string): number {
    const path = join(this.parts.config.directories.run, folder, 'qemu.pid');
    const pid = existsSync(path) ? Number(readFileSync(path, 'latin1')) : 0;
    return pid > 0 && commandLine(pid).includes(folder) ? pid : 0;
  }

  /** Speaks to the QEMU of a domain over its second monitor, where there are two to the newer. */
  async monitor<T>(uuid: string, work: (qmp: QmpClient) => Promise<T>): Promise<T> {
    const folder = this.runFolders(uuid).findLast((name) => this.pidIn(name) > 0) ?? uuid;
    const path = join(this.parts.config.directories.run, folder, 'rescue.sock');
    await using qmp = await QmpClient.connect(path, {
      connectLimitMs: 5_000,
      commandLimitMs: 5_000,
    });
    return await work(qmp);
  }

  #hear(note: Note, life: number, ready: Deferred<void>): void {
    switch (note.type) {
      case 'ready':
        ready.resolve();
        break;
      case 'ordered':
        this.#orders.get(note.id)?.resolve();
        this.#orders.delete(note.id);
        break;
      case 'route':
        this.#answer({
          question: note.question,
          port: this.parts.route(note.traffic, note.port),
        });
        break;
      case 'label':
        this.parts.onLabel(this.name, note.migrationId, note.label);
        break;
      case 'effect':
        this.#held = note.question ?? this.#held;
        this.parts.onEffect({ ...note, host: this.name, life });
    }
  }

  #answer(answer: Answer): void {
    const pipe = this.#agent?.stdio[4] as Writable | null | undefined;
    pipe?.write(`${JSON.stringify(answer)}\n`);
  }
}

/** The command line of a process, words divided by spaces; empty for one that is gone. */
export function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

/** Sends a signal to a process; false where it is gone. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

import { writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Exit } from '../../../src/process/proc.js';
import type { MigrationCapability, RunState } from '../../../src/qmp/types.gen.js';
import { type Deferred, deferred } from '../../../src/util/deferred.js';
import type { FakeConfig } from './argv.js';
import { BlockGraph, writeNode } from './block-graph.js';
import { COMMANDS } from './commands.js';
import { FakeQmpError } from './errors.js';
import type { FaultPoint, Faults, FaultTarget } from './faults.js';
import { type Acknowledgement, FakeGuest, type GuestState } from './guest.js';
import type { Incoming } from './incoming.js';
import type { GuestOptions, MigrationMachine } from './migration-machine.js';
import type { MirrorJob } from './mirror-job.js';
import { Monitor } from './monitor.js';
import type { NbdExport, NbdServer } from './nbd-server.js';
import { FakeObjects } from './objects.js';
import type { Outgoing } from './outgoing.js';

/** Defaults of `query-migrate-parameters` that anything here depends on. */
const PARAMETERS: Readonly<Record<string, number | string | boolean>> = {
  'announce-rounds': 5,
  'max-bandwidth': 134_217_728,
  'downtime-limit': 300,
  'multifd-channels': 2,
  'avail-switchover-bandwidth': 0,
  'tls-creds': '',
  'tls-hostname': '',
  'max-cpu-throttle': 99,
};

/** One command as a fake QEMU got it. */
export interface ReceivedCommand {
  readonly command: string;
  readonly args: Readonly<Record<string, unknown>>;
}

/**
 * A QEMU inside this process: real sockets and files, a made-up guest, and the state machines of
 * the real one.
 */
export class FakeQemu implements MigrationMachine, FaultTarget {
  readonly config: FakeConfig;
  readonly options: GuestOptions;
  readonly faults: Faults;
  readonly graph = new BlockGraph();
  readonly objects = new FakeObjects();
  readonly jobs = new Map<string, MirrorJob>();
  readonly exports = new Map<string, NbdExport>();
  /** Handed over by the agent, by name. */
  readonly sockets = new Map<string, Socket>();
  readonly guest: FakeGuest;
  /** Every command in the order it was executed. */
  readonly received: ReceivedCommand[] = [];
  readonly exited: Promise<Exit>;
  runState: RunState;
  nbdServer: NbdServer | undefined;
  outgoing: Outgoing | undefined;
  incomingMigration: Incoming | undefined;
  /** Set by `cont` before the guest is loaded: it then starts by itself. */
  startsByItself: boolean;
  readonly capabilities = new Set<MigrationCapability>();
  readonly parameters: Record<string, number | string | boolean> = { ...PARAMETERS };
  readonly #monitors: readonly Monitor[];
  readonly #gone: Deferred<Exit> = deferred();
  #alive = true;

  constructor(config: FakeConfig, options: GuestOptions, faults: Faults) {
    this.config = config;
    this.options = options;
    this.faults = faults;
    this.exited = this.#gone.promise;
    this.startsByItself = !config.stopped;
    this.runState = config.incoming ? 'inmigrate' : 'prelaunch';
    for (const blockdev of config.blockdevs) this.graph.addFile(blockdev);
    for (const device of config.devices) this.graph.addDevice(device);
    for (const object of config.objects) this.objects.add(object);
    this.guest = new FakeGuest(
      () => (options.idle ? [] : this.graph.writableDisks()),
      async (node, offset, bytes) => {
        const beganMs = performance.now();
        const job = [...this.jobs.values()].find(({ options: { source } }) => source === node);
        if (job) await job.guestWrite(offset, bytes);
        else writeNode(node, offset, bytes);
        this.graph.countWrite(node, bytes.length, performance.now() - beganMs);
      },
    );
    this.#monitors = config.monitorPaths.map(
      (path) => new Monitor(path, (command, args, oob) => this.#execute(command, args, oob)),
    );
  }

  get uuid(): string {
    return this.config.uuid;
  }

  get incoming(): boolean {
    return this.config.incoming;
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** The guest's writes that were acknowledged while it ran here. */
  get acknowledged(): readonly Acknowledgement[] {
    return this.guest.acknowledged;
  }

  /** Opens the monitors and, unless told otherwise, runs the guest. */
  async start(pid: number): Promise<void> {
    for (const monitor of this.#monitors) await monitor.listen();
    if (this.config.pidFile) writeFileSync(this.config.pidFile, `${pid}\n`);
    if (!this.config.incoming && !this.config.stopped) {
      this.runState = 'running';
      this.guest.run();
    }
  }

  capability(name: MigrationCapability): boolean {
    return this.capabilities.has(name);
  }

  parameter(name: string): number {
    return Number(this.parameters[name] ?? 0);
  }

  guestState(): GuestState {
    return this.guest.state;
  }

  loadGuest(state: GuestState): void {
    this.guest.load(state);
  }

  async stopGuest(state: RunState): Promise<void> {
    const wasRunning = this.runState === 'running';
    await this.guest.stop();
    this.runState = state;
    await this.#blinkJobs();
    if (!wasRunning) return;
    await this.emit('STOP', {});
    await this.#blinkJobs();
  }

  async startGuest(): Promise<void> {
    if (!this.#alive || this.runState === 'running') return;
    this.runState = 'running';
    await this.emit('RESUME', {});
    if (this.#alive) this.guest.run();
  }

  setRunState(state: RunState): void {
    this.runState = state;
  }

  async emit(event: string, data: Readonly<Record<string, unknown>>): Promise<void> {
    if (!this.#alive) return;
    const status = data['status'];
    const point: FaultPoint = { event, ...(typeof status === 'string' ? { status } : {}) };
    await this.faults.strike(this, 'before', point);
    if (!this.#alive) return;
    const timestampUs = (performance.timeOrigin + performance.now()) * 1000;
    for (const monitor of this.#monitors) monitor.sendEvent(event, data, timestampUs);
    await this.faults.strike(this, 'after', point);
  }

  dropMonitors(): void {
    for (const monitor of this.#monitors) monitor.drop();
  }

  die(): void {
    this.#end({ code: undefined, signal: 'SIGKILL' });
  }

  exit(code: number): void {
    this.#end({ code, signal: undefined });
  }

  breakRam(): void {
    this.outgoing?.yank();
  }

  #end(exit: Exit): void {
    if (!this.#alive) return;
    this.#alive = false;
    void this.guest.stop();
    for (const monitor of this.#monitors) monitor.close();
    this.nbdServer?.stop();
    this.outgoing?.yank();
    this.incomingMigration?.close();
    for (const socket of this.sockets.values()) socket.destroy();
    this.graph.close();
    this.#gone.resolve(exit);
  }

  async #blinkJobs(): Promise<void> {
    for (const job of this.jobs.values()) await job.blink();
  }

  async #execute(
    command: string,
    args: Readonly<Record<string, unknown>>,
    oob: boolean,
  ): Promise<unknown> {
    const handler = COMMANDS.get(command);
    if (!handler) {
      throw new FakeQmpError(`The command ${command} has not been found`, 'CommandNotFound');
    }
    if (oob && !OOB.has(command))
      throw new FakeQmpError(`The command ${command} does not support OOB`);
    this.received.push({ command, args });
    await this.faults.strike(this, 'before', { command });
    if (!this.#alive) throw new FakeQmpError('gone');
    const result = await handler(this, args);
    await this.faults.strike(this, 'after', { command });
    return result;
  }
}

const OOB: ReadonlySet<string> = new Set([
  'yank',
  'query-yank',
  'migrate-pause',
  'migrate-recover',
]);

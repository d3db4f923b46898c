import { rm } from 'node:fs/promises';
import type { LaunchedProcess } from '../process/launcher.js';
import type { Exit } from '../process/proc.js';
import type { QemuProcess } from '../process/qemu-process.js';
import { QmpClosedError } from '../qmp/errors.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { UndoStack } from '../util/undo-stack.js';
import type { Definition } from './definitions.js';
import { kernelSha256 } from './digests.js';
import { DomainError } from './errors.js';
import type { MemoryReservation } from './host-resources.js';
import { type DomainTools, launchQemu, nameTaps, runFolder, serialPath } from './launch.js';
import type { DomainInfo, DomainState } from './manager.js';
import { Ownership } from './ownership.js';
import { QemuDomain } from './qemu-domain.js';
import { Refusals } from './refusals.js';
import { checkRequirements } from './requirements.js';
import type { Domain, WaitOptions } from './types.js';

/** A QEMU that runs a domain here. */
export interface RunningQemu {
  readonly process: QemuProcess;
  readonly memory: MemoryReservation;
}

/** How long `get` and `list` wait for QEMU's word, in milliseconds. */
const QUERY_LIMIT_MS = 2_000;

/** How long a QEMU that is ended by force may take to close its images, in milliseconds. */
const QUIT_LIMIT_MS = 5_000;

/** One domain that is defined on this host: it runs here, is stopped, or has moved away. */
export class HostedDomain {
  readonly uuid: string;
  readonly ownership: Ownership;
  readonly #tools: DomainTools;
  #running: RunningQemu | undefined;
  /** Resolves when everything that follows from QEMU's end is done. */
  #ended: Promise<void> = Promise.resolve();
  #released = false;
  /**
   * A QEMU whose monitor does not answer: all that can be done is to wait for its end, or to bring
   * it about.
   */
  #silent: LaunchedProcess | undefined;

  constructor(definition: Definition, tools: DomainTools) {
    this.uuid = definition.spec.uuid;
    this.ownership = new Ownership(definition, tools);
    this.#tools = tools;
  }

  get definition(): Definition {
    return this.ownership.definition;
  }

  get name(): string {
    return this.definition.spec.name;
  }

  /** True where a QEMU runs it here. */
  get running(): boolean {
    return this.#running !== undefined;
  }

  /** Takes over a QEMU that runs the domain already. */
  adopt(running: RunningQemu): void {
    this.#running = running;
    running.memory.startedAs(running.process.record.process.pid);
    this.#ended = running.process.exited.then((exit) => this.#onExit(running, exit));
  }

  /** Takes over a QEMU that lives and cannot be spoken to. */
  adoptSilent(process: LaunchedProcess): void {
    this.#silent = process;
    this.ownership.silence = `its QEMU, process ${process.record.pid}, does not answer.`;
    this.#ended = process.exited.then(async (exit) => {
      this.#silent = undefined;
      this.ownership.silence = undefined;
      await this.#afterExit(exit);
    });
  }

  /** See MigratableDomains. */
  claim(migrationId: string): Domain {
    const running = this.#running;
    if (!running || !this.ownership.ownedHere) {
      const { ownerHost } = this.definition;
      const where = this.ownership.ownedHere ? 'does not run' : `lives on ${ownerHost}`;
      throw new DomainError('DOMAIN_NOT_RUNNING', `The domain ${this.name} ${where}.`, {
        facts: { owner_host: ownerHost },
      });
    }
    this.ownership.assertMayRun();
    this.ownership.claim(migrationId);
    const { log } = this.#tools.resources.settings;
    return new QemuDomain({
      process: running.process,
      definition: this.definition,
      directory: runFolder(this.uuid, this.#tools.resources),
      retire: (ownerHost) => this.retire(ownerHost),
      report: (step, error) => log.warn({ err: error, step }, 'could not undo a step'),
    });
  }

  /** Starts QEMU and the guest, or resumes a paused guest. Does nothing where it runs. */
  async start(settings: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    await this.ownership.alone('started', async () => {
      this.ownership.assertMayRun();
      if (!this.#running) await this.#launch(options);
      if (!settings.paused) await this.#running?.process.qmp.execute('cont', {}, options);
    });
    this.#changed();
  }

  /** Ends QEMU: by asking the guest to power off, or at once. */
  async stop(
    settings: { readonly force: boolean; readonly timeLimitMs: number },
    options: WaitOptions,
  ): Promise<void> {
    await this.ownership.alone(
      'stopped',
      async () => {
        if (settings.force && this.#silent) {
          this.#silent.kill('SIGKILL');
          this.#silent.hurry();
          await this.#ended;
        }
        this.ownership.assertMayRun();
        const process = this.#running?.process;
        if (process && settings.force) await process.quit({ limitMs: QUIT_LIMIT_MS });
        else if (process) await this.#powerDown(process, settings.timeLimitMs, options);
        await this.#ended;
      },
      // Whoever has lost patience must not wait until the patient one has.
      { overtakes: settings.force ? 'stopped' : undefined },
    );
  }

  /** Removes the images and the definition of a stopped domain. */
  async remove(): Promise<void> {
    await this.ownership.alone('deleted', async () => {
      this.ownership.assertMayRun({ hint: 'Delete only its tombstone, with --tombstone.' });
      if (this.#running) {
        throw new DomainError('DOMAIN_BUSY', `The domain ${this.name} runs.`, {
          hint: 'Stop it first.',
        });
      }
      for (const pool of this.#tools.resources.pools) await pool.removeDomain(this.uuid);
      await this.removeTombstone();
      await this.forget();
    });
  }

  /** Removes what this host knows of the domain. */
  async forget(): Promise<void> {
    const { resources, definitions } = this.#tools;
    await rm(runFolder(this.uuid, resources), { recursive: true, force: true });
    await definitions.remove(this.uuid);
  }

  /** Removes the images that a migration left here. */
  async removeTombstone(): Promise<void> {
    for (const pool of this.#tools.resources.pools) await pool.removeTombstone(this.uuid);
  }

  /** See Domain. Every step can be repeated. */
  async retire(ownerHost: string): Promise<void> {
    const { definition } = this;
    if (definition.ownerHost !== this.#tools.resources.settings.host) return;
    await this.#running?.process.quit();
    await this.#ended;
    for (const pool of this.#tools.resources.pools) {
      // The images of a shared pool are the running domain's.
      if (!pool.shared) await pool.bury(this.uuid, definition.generation);
    }
    await this.ownership.moveTo(ownerHost);
    this.#changed();
  }

  /** Lets go of QEMU's monitor at the agent's end; the guest runs on. */
  async release(): Promise<void> {
    this.#released = true;
    await this.#running?.process.detach();
  }

  async info(): Promise<DomainInfo> {
    const { spec, ownerHost, generation } = this.definition;
    const sizes = this.#tools.resources.pools.map((pool) => pool.tombstoneBytes(this.uuid));
    return {
      spec,
      state: await this.#state(),
      ownerHost,
      generation,
      qemuPid: this.#running?.process.record.process.pid ?? this.#silent?.record.pid ?? 0,
      serialPath: this.ownership.ownedHere ? serialPath(spec, this.#tools) : '',
      migrationId: this.ownership.migrationId ?? '',
      tombstoneBytes: (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0),
    };
  }

  async #state(): Promise<DomainState> {
    if (!this.ownership.ownedHere) return 'MOVED';
    if (this.ownership.inDoubt) return 'IN_DOUBT';
    const process = this.#running?.process;
    if (!process) return this.#silent ? 'RUNNING' : 'STOPPED';
    try {
      const { status } = await process.qmp.execute('query-status', {}, { limitMs: QUERY_LIMIT_MS });
      // QEMU pauses the guest for the last moment of a migration; that is not its user's pause.
      const migrating = status === 'finish-migrate' || status === 'postmigrate';
      return status === 'running' || (migrating && this.ownership.migrationId)
        ? 'RUNNING'
        : 'PAUSED';
    } catch {
      // It is there and silent: what the guest does cannot be known, and it may run.
      return this.#running ? 'RUNNING' : 'STOPPED';
    }
  }

  async #launch(options: WaitOptions): Promise<void> {
    const { resources } = this.#tools;
    const { log } = resources.settings;
    const { spec } = this.definition;
    const refusals = new Refusals();
    await checkRequirements(spec, resources, refusals, options);
    refusals.throwIfAny(`The domain ${spec.name} cannot be started`);
    await using undo = new UndoStack(({ step, error }) =>
      log.warn({ err: error, step }, 'could not undo a step'),
    );
    const memory = await resources.reserveMemory(spec.memoryBytes);
    undo.defer('give the memory back', () => memory.release());
    const kernel = spec.kernel === '' ? undefined : resources.kernel(spec.kernel);
    const sha256 = kernel ? await kernelSha256(kernel, options) : '';
    const taps = nameTaps(spec);
    // Written before they are made, so that a crash in between leaves nothing that nobody knows.
    await this.ownership.update({ taps: Object.values(taps), kernelSha256: sha256 });
    const process = await launchQemu(this.definition, taps, 'stopped', this.#tools, undo, options);
    undo.defer('forget QEMU', () => this.ownership.update({ process: undefined, taps: [] }));
    // The guest runs only when the next life of the agent would find it.
    await this.ownership.update({ process: process.record });
    undo.release();
    this.adopt({ process, memory });
    log.info({ domain: spec.name, pid: process.record.process.pid }, 'started a domain');
  }

  async #powerDown(process: QemuProcess, limitMs: number, options: WaitOptions): Promise<void> {
    using limit = withTimeout(
      options.signal,
      limitMs,
      () =>
        new DomainError(
          'STALLED',
          `The guest of ${this.name} did not power off within ${limitMs / 1000} s.`,
          { hint: 'Stop it with --force.', facts: { limit_ms: limitMs } },
        ),
    );
    try {
      const { status } = await process.qmp.execute('query-status', {}, { signal: limit.signal });
      if (status !== 'running') {
        throw new DomainError('DOMAIN_NOT_RUNNING', `The guest of ${this.name} is ${status}.`, {
          hint: 'A paused guest cannot power off: start it, or stop it with --force.',
        });
      }
      await process.qmp.execute('system_powerdown', {}, { signal: limit.signal });
    } catch (error) {
      // It was about to end anyway.
      if (!(error instanceof QmpClosedError)) throw error;
    }
    await untilAborted(process.exited, limit.signal);
  }

  async #onExit(running: RunningQemu, exit: Exit): Promise<void> {
    if (this.#running !== running) return;
    this.#running = undefined;
    running.memory.release();
    await this.#afterExit(exit);
  }

  async #afterExit(exit: Exit): Promise<void> {
    // The next life of the agent finds out by itself.
    if (this.#released) return;
    const { resources } = this.#tools;
    const { log, system } = resources.settings;
    try {
      for (const tap of this.definition.taps) await system.deleteTap(tap);
      await this.ownership.update({ process: undefined, taps: [] });
      // After a crash the log is all that tells of it, and stays until the next start.
      const crashed = exit.signal !== undefined || (exit.code ?? 0) !== 0;
      if (!crashed) await rm(runFolder(this.uuid, resources), { recursive: true, force: true });
      log.info({ domain: this.name, ...exit }, 'a QEMU has ended');
    } catch (error) {
      log.error({ err: error, domain: this.name }, 'could not clean up after a QEMU');
    }
    this.#changed();
  }

  #changed(): void {
    this.#tools.resources.settings.onChange?.(this.uuid);
  }
}

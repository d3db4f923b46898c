import type { LaunchedProcess } from '../process/launcher.js';
import type { Exit } from '../process/proc.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { Definition } from './definitions.js';
import { DomainError } from './errors.js';
import { observeGuest, powerDown, standStill } from './guest-control.js';
import { type DomainTools, removeRunFolders, runFolder, serialPath } from './launch.js';
import type { DomainInfo, DomainState } from './manager.js';
import { Ownership } from './ownership.js';
import { QemuDomain } from './qemu-domain.js';
import { type RunningQemu, startQemu } from './start-qemu.js';
import type { Domain, WaitOptions } from './types.js';

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
  /** A QEMU whose monitor does not answer: one can wait for its end, or bring it about. */
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

  /** The QEMU that runs it here. */
  get process(): QemuProcess | undefined {
    return this.#running?.process;
  }

  /** Its QEMU, where that is there and cannot be spoken to. */
  get silent(): LaunchedProcess | undefined {
    return this.#silent;
  }

  /** Takes over a QEMU that runs the domain already. */
  adopt(running: RunningQemu): void {
    this.#silent = undefined;
    this.ownership.silence = undefined;
    this.#running = running;
    running.memory.startedAs(running.process.record.process.pid);
    this.#ended = running.process.exited.then((exit) => this.#onExit(running, exit));
  }

  /** Takes over a QEMU that lives and cannot be spoken to. */
  adoptSilent(process: LaunchedProcess): void {
    this.#silent = process;
    this.ownership.silence = `its QEMU, process ${process.record.pid}, does not answer.`;
    this.#ended = process.exited.then(async (exit) => {
      if (this.#silent !== process) return;
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
    return this.#describe(running.process);
  }

  /** The domain as a migration sees it; undefined where no QEMU can be spoken to. */
  get migratable(): Domain | undefined {
    return this.#running && this.#describe(this.#running.process);
  }

  #describe(process: QemuProcess): Domain {
    const { log, carrier } = this.#tools.resources.settings;
    return new QemuDomain({
      process,
      carrier,
      definition: this.definition,
      directory: process.record.directory,
      retire: (ownerHost) => this.retire(ownerHost),
      report: (step, error) => log.warn({ err: error, step }, 'could not undo a step'),
    });
  }

  /** Starts QEMU and the guest, or resumes a paused guest. Does nothing where it runs. */
  async start(settings: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    await this.ownership.alone('started', async () => {
      this.ownership.assertMayRun();
      if (!this.#running) this.adopt(await startQemu(this.ownership, this.#tools, options));
      if (!settings.paused) await this.#running?.process.qmp.execute('cont', {}, options);
    });
    this.#changed();
  }

  /** Ends QEMU: by asking the guest to power off, or at once. */
  async stop(
    settings: { readonly force: boolean; readonly timeLimitMs: number },
    options: WaitOptions,
  ): Promise<void> {
    const allowed = { oldCopy: settings.force };
    await this.ownership.alone(
      'stopped',
      async () => {
        this.ownership.assertCertain(allowed);
        if (settings.force) await this.#endSilent();
        this.ownership.assertMayRun(allowed);
        const process = this.#running?.process;
        if (process && settings.force) await process.quit({ limitMs: QUIT_LIMIT_MS });
        else if (process) await powerDown(process, this.name, settings.timeLimitMs, options);
        await this.#ended;
      },
      // Whoever has lost patience must not wait until the patient one has.
      { ...allowed, overtakes: settings.force ? 'stopped' : undefined },
    );
  }

  /** Removes the images and the definition of a stopped domain. */
  async remove(): Promise<void> {
    const allowed = { oldCopy: true };
    const hint = 'Delete only its tombstone, with --tombstone.';
    const work = async () => {
      this.ownership.assertMayRun({ ...allowed, hint });
      if (this.#running) {
        throw new DomainError('DOMAIN_BUSY', `The domain ${this.name} runs.`, {
          hint: 'Stop it first.',
        });
      }
      for (const pool of this.#tools.resources.pools) await pool.removeDomain(this.uuid);
      await this.removeTombstone();
      await this.forget();
    };
    await this.ownership.alone('deleted', work, allowed);
  }

  /** Removes what this host knows of the domain. */
  async forget(): Promise<void> {
    const { resources, definitions } = this.#tools;
    await removeRunFolders(this.uuid, resources);
    await definitions.remove(this.uuid);
  }

  /** Removes the taps of a QEMU that has gone. */
  async removeTaps(): Promise<void> {
    const { taps } = this.definition;
    for (const tap of taps) await this.#tools.resources.settings.system.deleteTap(tap);
    if (taps.length > 0) await this.ownership.update({ taps: [] });
  }

  /** Removes the images that a migration left here. */
  async removeTombstone(): Promise<void> {
    for (const pool of this.#tools.resources.pools) await pool.removeTombstone(this.uuid);
  }

  /** See MigratableDomains. */
  async standDown(): Promise<void> {
    await this.#endSilent();
    if (this.#running) await standStill(this.#running.process);
    this.#changed();
  }

  /** See Domain. Every step can be repeated, and QEMU may have gone. */
  async retire(ownerHost: string): Promise<void> {
    const { definition } = this;
    if (!this.ownership.ownedHere) return;
    await this.#endSilent();
    await this.#running?.process.quit();
    await this.#ended;
    for (const pool of this.#tools.resources.pools) {
      // The images of a shared pool are the running domain's.
      if (!pool.shared) await pool.bury(this.uuid, definition.generation);
    }
    await this.ownership.moveTo(ownerHost);
    // A QEMU that crashed left its log there; nobody will start it here to make room for another.
    await removeRunFolders(this.uuid, this.#tools.resources);
    this.#changed();
  }

  /** Lets go of QEMU's monitor at the agent's end; the guest runs on. */
  async release(): Promise<void> {
    this.#released = true;
    await this.#running?.process.detach();
  }

  async info(): Promise<DomainInfo> {
    const { spec, ownerHost, epoch, generation } = this.definition;
    return {
      spec,
      state: await this.#state(),
      ownerHost,
      epoch,
      generation,
      qemuPid: this.#running?.process.record.process.pid ?? this.#silent?.record.pid ?? 0,
      serialPath: this.ownership.ownedHere ? serialPath(spec, this.#tools, this.#directory) : '',
      migrationId: this.ownership.migrationId ?? '',
      tombstoneBytes: await this.#tools.resources.shownTombstoneBytes(this.uuid),
      doubt: this.ownership.doubt,
    };
  }

  /** Of the QEMU that runs it, or would. */
  get #directory(): string {
    return this.definition.process?.directory ?? runFolder(this.uuid, this.#tools.resources);
  }

  async #state(): Promise<DomainState> {
    if (!this.ownership.ownedHere) return 'MOVED';
    const found = this.#silent ? 'silent' : await observeGuest(this.#running?.process);
    if (found === 'runs') return 'RUNNING';
    if (this.ownership.inDoubt) return 'IN_DOUBT';
    if (found === 'gone' || !(this.#running || this.#silent)) return 'STOPPED';
    // QEMU pauses the guest for the last moment of a migration; that is not its user's pause. And
    // what the guest of a silent QEMU does cannot be known: it may run.
    const held = found === 'held' && this.ownership.migrationId !== undefined;
    return held || found === 'silent' ? 'RUNNING' : 'PAUSED';
  }

  async #endSilent(): Promise<void> {
    if (!this.#silent) return;
    this.#silent.kill('SIGKILL');
    this.#silent.hurry();
    await this.#ended;
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
      if (!crashed) await removeRunFolders(this.uuid, resources);
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

import { readCpuTicks } from '../process/proc.js';
import type { QemuProcess } from '../process/qemu-process.js';
import { deferred } from '../util/deferred.js';
import { removeFolder } from '../util/held-folder.js';
import { untilAborted } from '../util/linked-signal.js';
import type { DataDoors } from './data-ports.js';
import { DiskServer } from './disk-server.js';
import { DomainError } from './errors.js';
import type { ReportProblem } from './faults.js';
import { GuestStart } from './guest-start.js';
import { activateImages } from './image-locks.js';
import type { Written } from './images.js';
import { loadGuest } from './incoming-load.js';
import { IncomingQemu } from './incoming-qemu.js';
import { type IncomingState, observeIncoming } from './incoming-state.js';
import type { TransportOptions } from './incoming-types.js';
import type { DiskServerAddress, LaunchDisk, RamServerAddress } from './launch-spec.js';
import { imageNode } from './names.js';
import type { QemuRamReceive } from './ram-receive.js';
import type { IncomingDomain, LoadedGuest, WaitOptions } from './types.js';

/** A QEMU that waits for a guest, and its private folder. */
export interface WaitingQemu {
  /** Started with `-S -incoming defer`. */
  readonly process: QemuProcess;
  /** For sockets and the key. */
  readonly directory: string;
}

/** QEMU must have worked for so many ticks of the kernel's clock, a tenth of a second. */
const TICKS = 10;

/** What an incoming domain is made of. */
export interface IncomingDomainParts extends WaitingQemu {
  /** Counts its RAM streams, from 1. */
  readonly attempt: number;
  readonly disks: readonly Pick<LaunchDisk, 'diskId' | 'mirrored'>[];
  readonly doors: DataDoors;
  /** Storage that each new image takes now, by disk id. */
  allocated(): Promise<Readonly<Record<string, number>>>;
  /** See IncomingDomain. */
  written(): Promise<Written>;
  /**
   * Starts a further QEMU on the same images.
   *
   * @throws DomainError `RAM_FAILED` where there can be none
   */
  startAgain(attempt: number, options: WaitOptions): Promise<WaitingQemu>;
  /** Ends every QEMU and removes everything that was made for the domain. */
  discard(): Promise<void>;
  /** See IncomingDomain. The first call cannot be taken back, however it ends. */
  arrive(qemu: { readonly alive: boolean; readonly process: QemuProcess }): Promise<void>;
  /** Hears of undo steps that did not work. */
  readonly report?: ReportProblem;
}

/** What an earlier life of the agent left of an incoming domain. */
export interface IncomingTraces {
  readonly server: DiskServer | undefined;
  readonly ram: QemuRamReceive | undefined;
  /** As in IncomingDomain. */
  readonly mayHaveRun: boolean;
  /** True where it has come to stay already. */
  readonly arrived: boolean;
}

/**
 * A guest that is waited for, by one QEMU that serves its disks and takes its RAM. Where the RAM
 * broke off while the mirrors were whole, a further QEMU on the same images takes it again; then
 * the first one only serves the disks, and ends before the guest counts as loaded.
 */
export class QemuIncomingDomain implements IncomingDomain {
  readonly died: Promise<DomainError>;
  readonly #parts: IncomingDomainParts;
  readonly #died = deferred<DomainError>();
  readonly #recovered: boolean;
  readonly #start: GuestStart;
  /** Serves the disks. */
  readonly #first: IncomingQemu;
  /** Takes the RAM. */
  #guest: IncomingQemu;
  #attempt: number;
  /** What the QEMUs that took the RAM said when they could not load it. */
  readonly #failures: string[] = [];
  /** True where what it waits for came through an earlier life of the agent. */
  readonly #lost: boolean;
  #beginning: Promise<IncomingQemu>;
  #exported: Promise<DiskServer> | undefined;
  #loaded: Promise<LoadedGuest> | undefined;
  /** Fires when a further attempt begins. */
  #superseded = new AbortController();
  #resumed: Promise<void> | undefined;
  /** True once the disk server may have ended: its mirrors cannot go on. */
  #closed = false;
  #arrived: boolean;
  #disposed = false;

  /** `traces` are those of an earlier life of the agent, if this one has not made it. */
  constructor(parts: IncomingDomainParts, traces?: IncomingTraces) {
    this.#parts = parts;
    this.#recovered = traces !== undefined;
    this.#arrived = traces?.arrived ?? false;
    this.#attempt = parts.attempt;
    this.#start = new GuestStart(traces?.mayHaveRun ?? false, this.#report);
    if (traces?.server) this.#exported = Promise.resolve(traces.server);
    this.died = this.#died.promise;
    this.#first = this.#watch(parts);
    if (traces?.ram) this.#first.ram = Promise.resolve(traces.ram);
    this.#lost = (traces?.server?.lost ?? false) || (traces?.ram?.lost ?? false);
    this.#guest = this.#first;
    this.#beginning = Promise.resolve(this.#first);
  }

  get alive(): boolean {
    return this.#guest.alive;
  }

  get mayHaveRun(): boolean {
    return this.#start.mayHaveRun;
  }

  async written(): Promise<Written> {
    const [written, ram] = await Promise.all([
      this.#parts.written(),
      ramMark(this.#guest).catch(() => ''),
    ]);
    return { ...written, mark: `${written.mark} ${ram}` };
  }

  async exportDisks(options: TransportOptions): Promise<DiskServerAddress> {
    const { disks, doors } = this.#parts;
    const { process, directory } = this.#first;
    const diskIds = disks.filter(({ mirrored }) => mirrored).map(({ diskId }) => diskId);
    this.#exported ??= this.#first.explained(
      'opening the NBD server',
      DiskServer.start({ qmp: process.qmp, directory, doors, diskIds }, options),
    );
    return (await this.#exported).address;
  }

  async acceptRam(
    options: TransportOptions & { readonly attempt?: number },
  ): Promise<RamServerAddress> {
    const { attempt = this.#attempt } = options;
    if (attempt > this.#attempt) {
      if (this.#closed) throw noFurther('its disk server has stopped already');
      this.#attempt = attempt;
      this.#loaded = undefined;
      // Whoever waits for the earlier one must not take the end of its QEMU for a death.
      this.#superseded.abort(noFurther(`attempt ${attempt} has begun`));
      this.#superseded = new AbortController();
      this.#beginning = this.#begin(attempt, options);
    } else if (attempt < this.#attempt) throw noFurther(`attempt ${attempt} is over`);
    const qemu = await this.#beginning;
    return (await qemu.acceptRam(this.#parts.doors, options)).address;
  }

  async loaded(options: WaitOptions): Promise<LoadedGuest> {
    const guest = this.#guest;
    const load = {
      qmp: guest.process.qmp,
      events: guest.events,
      ram: guest.ram,
      failures: this.#failures,
      closeDisks: () => this.#closeDisks(guest, options),
      allocated: this.#parts.allocated,
      report: this.#report,
    };
    this.#loaded ??= guest.explained(
      'loading the guest',
      untilAborted(loadGuest(load, options), this.#superseded.signal),
    );
    return await this.#loaded;
  }

  async observe(options: WaitOptions): Promise<IncomingState> {
    const { alive, process } = this.#guest;
    if (!alive) return 'gone';
    const observed = observeIncoming(process.qmp, this.#lost, options);
    return await this.#guest.explained('looking at the guest', observed);
  }

  async resume(guest: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    if (!this.#loaded && !this.#recovered) {
      throw new DomainError('INTERNAL', 'A guest was to resume that is not loaded.', {
        side: 'destination',
      });
    }
    this.#resumed ??= this.#guest.explained('resuming the guest', this.#bring(guest, options));
    try {
      await this.#resumed;
    } catch (error) {
      // What did not work may be tried again: the guest is ours now, and nobody else will run it.
      this.#resumed = undefined;
      throw error;
    }
  }

  async kill(): Promise<void> {
    await Promise.all([this.#first.kill(), this.#guest.kill()]);
  }

  async arrive(): Promise<void> {
    // Its QEMU is the hosted domain's from now on, and so is what becomes of it.
    this.#arrived = true;
    const { alive, process, ram } = this.#guest;
    const received = await ram?.catch(() => undefined);
    void (alive ? received?.close(this.#report) : received?.abandon(this.#report));
    await this.#parts.arrive({ alive, process });
    // What is left of the QEMU that only served the disks.
    if (this.#guest === this.#first) return;
    const { directory } = this.#first;
    await removeFolder(directory).catch((error) => this.#report('remove a run folder', error));
  }

  /**
   * Before `arrive`: removes everything. Never throws: what does not work is reported. Whoever
   * disposes says by it that the guest never runs here.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#guest.over = true;
    if (!this.#arrived) {
      this.#first.over = true;
      await this.#beginning.catch(() => undefined);
      await this.#guest.reset(new Error('The incoming domain is given up.'));
      try {
        await this.#parts.discard();
      } catch (error) {
        this.#report('discard the incoming domain', error);
      }
      const server = await this.#exported?.catch(() => undefined);
      await server?.abandon(this.#report);
      for (const { ram } of [this.#first, this.#guest]) {
        await (await ram?.catch(() => undefined))?.abandon(this.#report);
      }
    }
    this.#first[Symbol.dispose]();
    this.#guest[Symbol.dispose]();
  }

  readonly #report: ReportProblem = (step, error) => this.#parts.report?.(step, error);

  #watch({ process, directory }: WaitingQemu): IncomingQemu {
    return new IncomingQemu(process, directory, (error) => this.#died.resolve(error));
  }

  /** Gives up what took the RAM before, and starts what takes it now. */
  async #begin(attempt: number, options: WaitOptions): Promise<IncomingQemu> {
    const before = this.#guest;
    await before.reset(new Error('The RAM is sent once more.'));
    if (before !== this.#first) await before.kill();
    const qemu = this.#watch(await this.#parts.startAgain(attempt, options));
    this.#guest = qemu;
    if (this.#disposed) qemu.over = true;
    return qemu;
  }

  /** Nobody can write to the disks after this but the guest's own QEMU. */
  async #closeDisks(guest: IncomingQemu, options: WaitOptions): Promise<void> {
    this.#closed = true;
    await (await this.#exported)?.stop(options);
    if (guest !== this.#first) await this.#first.quit();
  }

  async #bring({ paused }: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    const { process } = this.#guest;
    // An earlier life of the agent may have come further than its journal.
    if (this.#recovered && (await this.observe(options)) === 'running') {
      return this.#start.announce(process.qmp);
    }
    await this.loaded(options);
    if (!this.#guest.alive) throw await this.#guest.ended('resuming the guest');
    // A guest that stays paused gets its disks all the same: they are inactive until it runs.
    const nodes = this.#parts.disks.map(({ diskId }) => imageNode(diskId));
    await (paused
      ? activateImages(process.qmp, nodes, options)
      : this.#start.run(process, options));
  }
}

function noFurther(why: string): DomainError {
  return new DomainError('RAM_FAILED', `The RAM cannot be sent once more: ${why}.`, {
    side: 'destination',
  });
}

/** Changes as RAM arrives, and only then. */
async function ramMark({ ram, process, alive }: IncomingQemu): Promise<string> {
  const received = await ram;
  if (!received || !alive) return '';
  if (received.carriedBytes !== undefined) return String(received.carriedBytes);
  // What comes from QEMU to QEMU shows in the time that QEMU works; waiting takes it nearly none.
  const ticks = readCpuTicks(process.record.process.pid) ?? 0;
  return String(Math.floor(ticks / TICKS));
}

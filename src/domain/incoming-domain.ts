import type { QemuProcess } from '../process/qemu-process.js';
import type { ExecuteOptions, QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import type { RunState } from '../qmp/types.gen.js';
import { deferred } from '../util/deferred.js';
import { type DataAddress, DiskServer } from './disk-server.js';
import { DomainError } from './errors.js';
import { QemuFaults, type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { imageNode } from './names.js';
import { QemuRamReceive } from './ram-receive.js';
import { isLive } from './resume-source.js';
import type {
  DiskServerAddress,
  IncomingDomain,
  IncomingRequest,
  LoadedGuest,
  RamReceive,
  WaitOptions,
} from './types.js';

/** What an incoming domain is made of. */
export interface IncomingDomainParts {
  /** Started with `-S -incoming defer`. */
  readonly process: QemuProcess;
  readonly request: IncomingRequest;
  /** Private folder of the domain, for sockets and the key. */
  readonly directory: string;
  readonly data: DataAddress;
  /** Writes durably that the domain is this host's. */
  own(): Promise<void>;
  /** Storage that each new image takes now, by disk id. */
  allocated(): Promise<Readonly<Record<string, number>>>;
  /** Ends QEMU, then takes `own` back durably; does nothing before `own`. */
  disown(): Promise<void>;
  /** Ends QEMU and removes everything that was made for the domain. */
  discard(): Promise<void>;
  /** The domain has come to stay. */
  keep(): void;
  /** Hears of undo steps that did not work. */
  readonly report?: ReportProblem;
}

/**
 * How the guest makes itself known to the switches, as QEMU would do by itself: five frames within
 * a second.
 */
const ANNOUNCEMENT = { initial: 50, max: 550, rounds: 5, step: 100 } as const;

const STEP = { limitMs: STEP_LIMIT_MS };

/** A QEMU that waits for a guest. It cannot run it before `own` and `resume`. */
export class QemuIncomingDomain implements IncomingDomain {
  readonly died: Promise<DomainError>;
  readonly #parts: IncomingDomainParts;
  readonly #faults: QemuFaults;
  readonly #events: EventListener<'MIGRATION'>;
  #exported: Promise<DiskServer> | undefined;
  #accepted: Promise<QemuRamReceive> | undefined;
  #loaded: Promise<LoadedGuest> | undefined;
  #resumed: Promise<void> | undefined;
  #owned = false;
  #alive = true;
  #mayHaveRun = false;
  #disposed = false;

  constructor(parts: IncomingDomainParts) {
    this.#parts = parts;
    this.#faults = new QemuFaults(parts.process, 'destination');
    this.#events = parts.process.qmp.listen('MIGRATION');
    const died = deferred<DomainError>();
    this.died = died.promise;
    void parts.process.exited.then(async () => {
      this.#alive = false;
      if (!this.#disposed) died.resolve(await this.#faults.ended('a domain was on its way in'));
    });
  }

  get alive(): boolean {
    return this.#alive;
  }

  get mayHaveRun(): boolean {
    return this.#mayHaveRun;
  }

  async exportDisks(options: WaitOptions): Promise<DiskServerAddress> {
    const { process, request, directory, data } = this.#parts;
    this.#exported ??= this.#explained(
      'opening the NBD server',
      DiskServer.start(
        {
          qmp: process.qmp,
          directory,
          data,
          pskIdentity: `${request.migrationId}.${request.attempt}`,
          diskIds: request.launchSpec.disks
            .filter(({ mirrored }) => mirrored)
            .map(({ diskId }) => diskId),
        },
        options,
      ),
    );
    return (await this.#exported).address;
  }

  async acceptRam(options: WaitOptions): Promise<RamReceive> {
    const { process, directory } = this.#parts;
    this.#accepted ??= this.#explained(
      'preparing for the RAM',
      QemuRamReceive.start(process.qmp, directory, options),
    );
    return await this.#accepted;
  }

  async loaded(options: WaitOptions): Promise<LoadedGuest> {
    this.#loaded ??= this.#explained('loading the guest', this.#load(options));
    return await this.#loaded;
  }

  async own(): Promise<void> {
    await this.#parts.own();
    this.#owned = true;
  }

  async disown(): Promise<void> {
    await this.#parts.disown();
  }

  async resume(guest: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    if (!this.#loaded || !this.#owned) {
      throw new DomainError('INTERNAL', 'A guest was to resume that is not loaded and owned.', {
        side: 'destination',
      });
    }
    await this.#loaded;
    this.#resumed ??= this.#explained(
      'resuming the guest',
      guest.paused ? this.#activate(options) : this.#run(options),
    );
    try {
      await this.#resumed;
    } catch (error) {
      // What did not work may be tried again: the guest is ours now, and nobody else will run it.
      this.#resumed = undefined;
      throw error;
    }
  }

  release(): void {
    this.#disposed = true;
    this.#close();
    this.#parts.keep();
  }

  /**
   * Before `release`: removes everything; after `own` too, because then the guest has proved never
   * to have run. Never throws: what does not work is reported.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    const report = this.#parts.report ?? (() => undefined);
    const ram = await this.#accepted?.catch(() => undefined);
    ram?.reset(new Error('The incoming domain is given up.'));
    this.#close();
    try {
      await this.#parts.discard();
    } catch (error) {
      report('discard the incoming domain', error);
    }
    const server = await this.#exported?.catch(() => undefined);
    await server?.abandon(report);
  }

  async #load(options: WaitOptions): Promise<LoadedGuest> {
    const { process, allocated } = this.#parts;
    for (;;) {
      const { data } = await this.#events.next(options);
      if (data.status === 'completed') break;
      if (data.status === 'failed' || data.status === 'cancelled') throw await this.#loadFailure();
    }
    const server = await this.#exported;
    const [{ status }, allocatedBytes] = await Promise.all([
      process.qmp.execute('query-status', {}, { ...STEP, ...options }),
      allocated(),
      server?.stop(options),
    ]);
    // A guest that QEMU still takes in would start by itself at the end, if it were told to run
    // now.
    if (status === 'inmigrate' || isLive(status)) throw wrongState('loaded', status);
    return { allocatedBytes };
  }

  /**
   * QEMU's own words do not tell a broken stream from one that it cannot understand; the relay
   * knows.
   */
  async #loadFailure(): Promise<DomainError> {
    const info = await this.#parts.process.qmp.execute('query-migrate', {}, STEP);
    const description = info['error-desc'] ?? 'QEMU did not say why';
    const ram = await this.#accepted;
    return new DomainError(
      ram?.streamEnded ? 'RAM_FAILED' : 'VMSTATE_INCOMPATIBLE',
      `QEMU on the destination could not load the guest: ${description}`,
      { side: 'destination', facts: { qemu_error: description } },
    );
  }

  async #run(options: WaitOptions): Promise<void> {
    if (!this.#alive) throw await this.#faults.ended('resuming the guest');
    const qmp = await this.#parts.process.reconnected();
    const step = { ...STEP, ...options };
    // QEMU resumes the guest before it answers `cont`, so the state asked for at the same time is
    // the one after it.
    const [, { status }] = await Promise.all([
      this.#continue(qmp, step),
      qmp.execute('query-status', {}, step),
    ]);
    // Any other state is the guest's own doing: it may have panicked or met a bad disk meanwhile.
    if (status === 'inmigrate') throw wrongState('resumed', status);
    // The guest runs: that switches learn of it a moment later must not hold anybody up.
    qmp.execute('announce-self', ANNOUNCEMENT, STEP).catch((error) => {
      this.#parts.report?.('announce the guest to the network', error);
    });
  }

  /** Only QEMU's own word proves that the guest did not run; silence and a broken line do not. */
  async #continue(qmp: QmpClient, step: ExecuteOptions): Promise<void> {
    const before = this.#mayHaveRun;
    this.#mayHaveRun = true;
    try {
      await qmp.execute('cont', {}, step);
    } catch (error) {
      if (error instanceof QmpError) this.#mayHaveRun = before;
      throw error;
    }
  }

  /**
   * A guest that stays paused gets its disks all the same: they are inactive until something runs.
   */
  async #activate(options: WaitOptions): Promise<void> {
    const { process, request } = this.#parts;
    const step = { ...STEP, ...options };
    const nodes = request.launchSpec.disks.map(({ diskId }) => imageNode(diskId));
    try {
      await Promise.all(
        nodes.map((node) =>
          process.qmp.execute('blockdev-set-active', { 'node-name': node, active: true }, step),
        ),
      );
    } catch (error) {
      // QEMU before 10.0 has no such command; `cont` activates the disks there.
      if (!(error instanceof QmpError) || error.errorClass !== 'CommandNotFound') throw error;
    }
  }

  async #explained<T>(doing: string, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw await this.#faults.explain(error, doing);
    }
  }

  #close(): void {
    this.#events[Symbol.dispose]();
    this.#faults[Symbol.dispose]();
  }
}

function wrongState(wanted: string, status: RunState): DomainError {
  return new DomainError(
    'INTERNAL',
    `The guest is ${status} where it should have been ${wanted}.`,
    {
      side: 'destination',
      facts: { runstate: status },
    },
  );
}

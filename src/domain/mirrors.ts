import type { Carrier } from '../channel/types.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { QemuFaults, type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { watchGuest } from './gentle.js';
import type { DiskServerAddress, LaunchDisk } from './launch-spec.js';
import { MIRROR_EVENTS, type Mirror, planMirrors } from './mirror.js';
import { activateMirrors, blockMirror } from './mirror-activation.js';
import { findMirrors } from './mirror-adoption.js';
import { MirrorCarriages } from './mirror-carriage.js';
import { MirrorPace } from './mirror-pace.js';
import { removeMirrors, tryToRemove } from './mirror-removal.js';
import { startMirrors } from './mirror-start.js';
import { PSK_OBJECT } from './names.js';
import type { MigrationLimits, MirrorProgress, Mirrors, WaitOptions } from './types.js';
import { breakingStall, yankStalled } from './yank.js';

/** What the mirrors of a migration need. */
export interface MirrorsParts {
  readonly process: QemuProcess;
  /** Private folder of the domain, for the key and the sockets. */
  readonly directory: string;
  readonly disks: readonly LaunchDisk[];
  readonly server: DiskServerAddress;
  readonly limits: MigrationLimits;
  /** Carries what does not go from QEMU to QEMU. */
  readonly carrier: Carrier;
  /** True where nothing was ever written to the exports, so that they read as zeros. */
  readonly fresh: boolean;
  /** Hears of undo steps that did not work. */
  readonly report: ReportProblem;
}

const STEP = { limitMs: STEP_LIMIT_MS };

/** The mirror jobs of one QEMU. */
export class QemuMirrors implements Mirrors {
  readonly #parts: MirrorsParts;
  readonly #qmp: QmpClient;
  #mirrors: readonly Mirror[];
  readonly #faults: QemuFaults;
  readonly #carriages: MirrorCarriages;
  readonly #listener: EventListener<(typeof MIRROR_EVENTS)[number]>;
  readonly #lifetime = new AbortController();
  /** Rejects when the connection to QEMU ends. */
  readonly #lost = deferred<never>();
  readonly #stoppedJobs = new Set<Mirror>();
  #pace: MirrorPace | undefined;
  #detached = false;

  private constructor(parts: MirrorsParts) {
    this.#parts = parts;
    this.#qmp = parts.process.qmp;
    this.#mirrors = planMirrors(parts.disks, parts.server);
    this.#faults = new QemuFaults(parts.process, 'source');
    this.#carriages = new MirrorCarriages(parts);
    this.#listener = this.#qmp.listen(...MIRROR_EVENTS);
    this.#lost.promise.catch(() => undefined);
    void this.#listen();
  }

  /** Starts, or finds running, all mirrors at once. When one cannot be started, none is left. */
  static async start(parts: MirrorsParts, options: WaitOptions): Promise<QemuMirrors> {
    const mirrors = new QemuMirrors(parts);
    try {
      await mirrors.#start(options);
      return mirrors;
    } catch (error) {
      const reason = await mirrors.#faults.explain(error, 'starting the mirrors');
      await mirrors[Symbol.asyncDispose]();
      throw reason;
    }
  }

  /**
   * Resolves when all mirrors have settled; rejects with `MIRROR_FAILED` as soon as one ends
   * otherwise.
   */
  get settled(): Promise<unknown> {
    return Promise.all(this.#mirrors.map(({ settled }) => settled));
  }

  async ready(options: WaitOptions): Promise<void> {
    await this.#wait(
      'mirroring the disks',
      Promise.all(this.#mirrors.map(({ ready }) => ready)),
      options,
    );
  }

  async activate(options: WaitOptions): Promise<void> {
    const activated = async () => {
      await this.#pace?.stop();
      await activateMirrors(this.#qmp, this.#mirrors, () => this.#observe(), options);
    };
    await this.#wait('activating the mirrors', activated(), options);
  }

  async setSpeed(bytesPerSecond: number): Promise<void> {
    await this.#pace?.setSpeed(bytesPerSecond);
  }

  async settle(options: WaitOptions): Promise<void> {
    const asked = this.#mirrors.map(async (mirror) => {
      if (mirror.isSettling) return;
      if (!mirror.isReady) throw notReady(mirror);
      mirror.settle();
      await this.#qmp.execute('block-job-cancel', { device: mirror.job }, { ...STEP, ...options });
    });
    using limit = withTimeout(options.signal, STEP_LIMIT_MS, stalled);
    const all = Promise.all([...asked, this.settled]);
    const settled = this.#wait('settling the mirrors', all, { signal: limit.signal });
    await this.#breakingStall(settled);
  }

  async detach(): Promise<void> {
    if (this.#detached) return;
    const jobs = this.#mirrors.map(({ job }) => job);
    const nodes = this.#mirrors.map(({ target }) => target);
    try {
      // All at once, because the guest is paused: QEMU takes them in this order, and a node is free
      // when its job is gone.
      const removed = Promise.all([
        ...jobs.map((id) => this.#qmp.execute('job-dismiss', { id }, STEP)),
        ...nodes.map((node) => this.#qmp.execute('blockdev-del', { 'node-name': node }, STEP)),
        ...(nodes.length > 0 && this.#parts.server.transport === 'direct'
          ? [this.#qmp.execute('object-del', { id: PSK_OBJECT }, STEP)]
          : []),
      ]);
      await this.#breakingStall(removed);
      this.#detached = true;
    } catch (error) {
      throw await this.#faults.explain(error, 'removing the mirrors');
    }
  }

  async progress(): Promise<readonly MirrorProgress[]> {
    if (!this.#detached) await this.#observe().catch(() => undefined);
    return this.#mirrors.map(({ progress }) => progress);
  }

  /**
   * Cancels what runs and removes jobs, nodes and key. Never throws: what does not work is
   * reported.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pace?.stop();
    if (!this.#detached && this.#mirrors.length > 0) {
      const { process, report } = this.#parts;
      await removeMirrors(process, this.#mirrors, report);
      this.#detached = true;
    }
    this.#carriages.reset();
    this.#lifetime.abort(new Error('The mirrors are gone.'));
    this.#listener[Symbol.dispose]();
    this.#faults[Symbol.dispose]();
  }

  #breakingStall<T>(step: Promise<T>): Promise<T> {
    const nodes = this.#mirrors.map(({ target }) => target);
    const cut = async () => {
      this.#carriages.reset();
      await yankStalled(this.#qmp, { nodes, migration: false });
    };
    return breakingStall(step, cut, this.#parts.report);
  }

  async #listen(): Promise<void> {
    try {
      for (;;) {
        const event = await this.#listener.next({ signal: this.#lifetime.signal });
        for (const mirror of this.#mirrors) mirror.take(event);
        if (event.name === 'BLOCK_JOB_ERROR' && event.data.action === 'stop') {
          void this.#stopped(event.data.device);
        }
        if (event.name === 'BLOCK_JOB_READY') void this.#pace?.passOn();
      }
    } catch (error) {
      for (const mirror of this.#mirrors) mirror.lose(error as Error);
      this.#lost.reject(error);
    }
  }

  /** The event does not say which error stopped the job. From then on each write adds an event. */
  async #stopped(device: string): Promise<void> {
    const mirror = this.#mirrors.find(({ job }) => job === device);
    if (!mirror || this.#stoppedJobs.has(mirror)) return;
    this.#stoppedJobs.add(mirror);
    const jobs = await this.#qmp.execute('query-block-jobs', {}, STEP).catch(() => []);
    const job = jobs.find((each) => each.device === device);
    const isFull = job?.['io-status'] === 'nospace';
    await this.#carriages.explain(mirror);
    mirror.stop(isFull ? 'No space left on device' : 'Input/output error');
  }

  /** Waits, and gives every error its reason. */
  async #wait<T>(doing: string, work: Promise<T>, options: WaitOptions): Promise<T> {
    try {
      return await untilAborted(Promise.race([work, this.#lost.promise]), options.signal);
    } catch (error) {
      throw await this.#faults.explain(await this.#preferVerdict(error), doing);
    }
  }

  /** QEMU refuses commands for a job that has just failed: why it failed is what matters. */
  async #preferVerdict(error: unknown): Promise<unknown> {
    if (!(error instanceof QmpError)) return error;
    try {
      await this.#observe();
      return error;
    } catch (verdict) {
      return verdict;
    }
  }

  async #start(options: WaitOptions): Promise<void> {
    if (this.#mirrors.length === 0) return;
    const { limits, disks, server, report } = this.#parts;
    const found = await findMirrors(this.#qmp, this.#mirrors, this.#parts, options);
    const { stale } = found;
    // Leftovers of an agent that died have the names that are needed now. Their last events must
    // not count. The key that a running mirror uses is the right one.
    const keyed = stale.length < this.#mirrors.length;
    if (stale.length > 0) await tryToRemove(this.#qmp, stale, report, { keepKey: keyed });
    const fresh = planMirrors(disks, server);
    const missing = fresh.filter(({ job }) => stale.some((mirror) => mirror.job === job));
    this.#mirrors = this.#mirrors.map(
      (mirror) => missing.find(({ job }) => job === mirror.job) ?? mirror,
    );
    this.#pace = new MirrorPace({
      qmp: this.#qmp,
      mirrors: this.#mirrors,
      speed: limits.maxBandwidth,
      gentle:
        limits.gentle && !keyed ? await watchGuest(this.#qmp, this.#mirrors, options) : undefined,
      observe: () => this.#observe(),
      block: (mirror) => blockMirror(this.#qmp, mirror, options),
      report,
    });
    const speed = this.#pace.firstSpeed;
    const { roundTripMs } = limits;
    const { isSparse } = found;
    const start = { ...this.#parts, mirrors: missing, carriages: this.#carriages, isSparse };
    if (missing.length > 0) await startMirrors({ ...start, speed, roundTripMs, keyed }, options);
    this.#pace.start(found.speeds);
  }

  /** Reads QEMU's figures; true when all mirrors are active. Throws when a mirror has ended. */
  async #observe(): Promise<boolean> {
    const jobs = await this.#qmp.execute('query-block-jobs', {}, STEP);
    let active = true;
    for (const mirror of this.#mirrors) {
      const job = jobs.find(({ device }) => device === mirror.job);
      if (job) mirror.observe(job.len, job.offset, job.ready);
      active &&= job?.type === 'mirror' && job['actively-synced'];
      const failed = job && (job.status === 'concluded' || job['io-status'] !== 'ok');
      if (failed && !mirror.isSettling) await mirror.settled;
    }
    return active;
  }
}

function notReady(mirror: Mirror): DomainError {
  return new DomainError(
    'MIRROR_FAILED',
    `The mirror of the disk "${mirror.diskId}" was to settle before it was ready.`,
    { side: 'source', facts: { disk: mirror.diskId } },
  );
}

function stalled(): DomainError {
  return new DomainError('STALLED', `The mirrors did not settle within ${STEP_LIMIT_MS} ms.`, {
    side: 'source',
    facts: { limit_ms: STEP_LIMIT_MS },
  });
}

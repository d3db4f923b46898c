import { setTimeout as delay } from 'node:timers/promises';
import type { Carrier } from '../channel/types.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { DowntimeLadder } from './downtime-ladder.js';
import { DomainError } from './errors.js';
import { QemuFaults, type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { activateImages } from './image-locks.js';
import type { RamServerAddress } from './launch-spec.js';
import { imageNode, mirrorJob, targetNode } from './names.js';
import { completeRam } from './ram-completion.js';
import { untilNearlySent } from './ram-nearly-sent.js';
import { PauseWatch } from './ram-pause.js';
import { brokenOff, notSent, readRamProgress } from './ram-progress.js';
import { explainRam, watchBegin, watchRam } from './ram-watch.js';
import { findSending, RamWay } from './ram-way.js';
import { isHeld, MIGRATION_EVENTS, resumeSource } from './resume-source.js';
import { readGuard } from './source-guard.js';
import { holdStream, setStreamBandwidth, setUpStream } from './stream-settings.js';
import type {
  MigrationLimits,
  RamPause,
  RamProgress,
  RamSend,
  SourceGuard,
  WaitOptions,
} from './types.js';
import { breakingStall, yankStalled } from './yank.js';

/** What sending the RAM needs. */
export interface RamSendParts {
  readonly process: QemuProcess;
  /** Private folder of the domain, for the key or the socket. */
  readonly directory: string;
  /** Where it is to be brought to. */
  readonly server: RamServerAddress;
  readonly carrier: Carrier;
  readonly limits: MigrationLimits;
  /**
   * Resolves when every mirror has settled; rejects when one fails: then there is no use in sending
   * RAM.
   */
  readonly mirrored: Promise<unknown>;
  /** The disks that may be mirrored. */
  readonly diskIds: readonly string[];
  /** Hears of undo steps that did not work. */
  readonly report: ReportProblem;
}

/** The images are locked so long after the end of the RAM where no guard was asked for before. */
const LOCK_AFTER_MS = 100;

/** When the stream breaks, QEMU gets this long to say so itself, because it knows more. */
const QEMU_SAYS_MS = 1_000;

const STEP = { limitMs: STEP_LIMIT_MS };

/** The RAM of one QEMU on its way to the destination. */
export class QemuRamSend implements RamSend {
  readonly #parts: RamSendParts;
  readonly #qmp: QmpClient;
  readonly #faults: QemuFaults;
  readonly #events: EventListener<(typeof MIGRATION_EVENTS)[number]>;
  readonly #passes: EventListener<'MIGRATION_PASS'>;
  readonly #ladder: DowntimeLadder;
  readonly #watch: PauseWatch;
  readonly #carriageErrorNow = () => this.#carriageError;
  /**
   * Rejects when a mirror has failed, when nothing moves any more, or when the stream has broken
   * and QEMU did not notice.
   */
  readonly #broken = deferred<never>();
  readonly #paused = deferred<RamPause>();
  readonly #lifetime = new AbortController();
  #way: RamWay | undefined;
  #carriageError: unknown;
  #settled = false;
  #lock: NodeJS.Timeout | undefined;
  #begun = false;
  /** True where an earlier life of the agent began it. */
  #adopted = false;
  #released = false;

  private constructor(parts: RamSendParts) {
    this.#parts = parts;
    this.#qmp = parts.process.qmp;
    this.#faults = new QemuFaults(parts.process, 'source');
    this.#events = this.#qmp.listen(...MIGRATION_EVENTS);
    this.#passes = this.#qmp.listen('MIGRATION_PASS');
    this.#ladder = new DowntimeLadder(this.#qmp, parts.limits.downtimeLimitMs, parts.report);
    this.#watch = new PauseWatch(this.#qmp, this.#events, this.#carriageErrorNow);
    for (const { promise } of [this.#broken, this.#paused]) promise.catch(() => undefined);
    parts.mirrored.then(
      () => {
        this.#settled = true;
      },
      (error: unknown) => this.#broken.reject(error),
    );
  }

  /** Lets QEMU begin, or finds it sending. When that fails, the guest runs here as before. */
  static async start(parts: RamSendParts, options: WaitOptions): Promise<QemuRamSend> {
    const send = new QemuRamSend(parts);
    try {
      await send.#start(options);
      return send;
    } catch (error) {
      const reason = await send.#explain(error, 'starting to send RAM');
      await send[Symbol.asyncDispose]();
      throw reason;
    }
  }

  async sentOnce(options: WaitOptions): Promise<void> {
    try {
      const nearly = untilNearlySent(this.#qmp, this.#passes, this.#lifetime);
      const sent = Promise.race([nearly, this.#paused.promise, this.#broken.promise]);
      await untilAborted(sent, options.signal);
    } catch (error) {
      throw await this.#explain(error, 'sending RAM');
    }
  }

  async allowPause(): Promise<void> {
    try {
      await this.#ladder.release();
    } catch (error) {
      throw await this.#explain(error, 'letting QEMU pause the guest');
    }
  }

  async setBandwidth(bytesPerSecond: number): Promise<void> {
    const { signal } = this.#lifetime;
    await setStreamBandwidth(this.#qmp, bytesPerSecond, { ...STEP, signal });
  }

  async preSwitchover(options: WaitOptions): Promise<RamPause> {
    try {
      return await untilAborted(
        Promise.race([this.#paused.promise, this.#broken.promise]),
        options.signal,
      );
    } catch (error) {
      throw await this.#explain(error, 'sending RAM');
    }
  }

  async finish(options: WaitOptions): Promise<void> {
    // The last pass may take as long as the downtime allows; a stall is what goes far beyond it.
    const limitMs = STEP_LIMIT_MS + 2 * this.#parts.limits.downtimeLimitMs;
    using limit = withTimeout(options.signal, limitMs, () => notSent('The last RAM', limitMs));
    try {
      const completed = Promise.race([
        completeRam(this.#qmp, this.#events, limit, this.#carriageErrorNow),
        this.#broken.promise,
      ]);
      await this.#breakingStall(untilAborted(completed, limit.signal));
    } catch (error) {
      throw await this.#explain(error, 'sending the last RAM');
    }
    this.#lock = setTimeout(() => this.#lockImages(), LOCK_AFTER_MS);
  }

  async guard(options: WaitOptions): Promise<SourceGuard> {
    const memory = {
      jobs: this.#parts.diskIds.map(mirrorJob),
      settled: this.#settled,
      resumed: () => this.#events.has(({ name }) => name === 'RESUME'),
    };
    try {
      const guard = await this.#breakingStall(readGuard(this.#qmp, memory, options));
      this.#lockImages();
      return guard;
    } catch (error) {
      throw await this.#explain(error, 'making sure that the guest cannot run here');
    }
  }

  release(): void {
    this.#released = true;
  }

  progress(): Promise<RamProgress> {
    return readRamProgress(this.#qmp);
  }

  /**
   * Unless released: ends the stream and lets the guest run here again, if it did. Never throws.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Error('The RAM stream is over.'));
    const { process, diskIds, report } = this.#parts;
    if (this.#begun && !this.#released) {
      this.#begun = false;
      const { guestPaused } = this.#watch;
      const targets = diskIds.map(targetNode);
      // Of a guest that an earlier life of the agent saw, only QEMU knows whether it was paused.
      const known = this.#adopted ? { guestPaused: false, only: isHeld } : { guestPaused };
      await resumeSource(process, { ...known, targets }, report);
    }
    clearTimeout(this.#lock);
    if (this.#released) this.#way?.reset(new Error('The RAM stream is over.'));
    else await this.#way?.close(report);
    this.#ladder[Symbol.dispose]();
    this.#passes[Symbol.dispose]();
    this.#events[Symbol.dispose]();
    this.#faults[Symbol.dispose]();
  }

  /**
   * QEMU lets go of its images when it has completed. They are this host's until the handover is
   * over, so nobody else shall open them to write. Nobody waits for that, and the guard's questions
   * do not stand in line behind it.
   */
  #lockImages(): void {
    clearTimeout(this.#lock);
    activateImages(this.#qmp, this.#parts.diskIds.map(imageNode)).catch((error) => {
      if (!(error instanceof QmpClosedError)) this.#parts.report('lock the images', error);
    });
  }

  async #breakingStall<T>(step: Promise<T>): Promise<T> {
    const { diskIds, report } = this.#parts;
    const cut = async () => {
      this.#way?.reset(new Error('QEMU stalled.'));
      await yankStalled(this.#qmp, { nodes: diskIds.map(targetNode), migration: true });
    };
    return await breakingStall(step, cut, report);
  }

  async #start(options: WaitOptions): Promise<void> {
    const { process, server, limits, report, diskIds } = this.#parts;
    const qmp = this.#qmp;
    const found = await findSending(qmp, server, options);
    if (found === 'other') {
      // What an earlier life of the agent sent to a place that is of no use any more.
      const targets = diskIds.map(targetNode);
      await resumeSource(process, { guestPaused: false, only: isHeld, targets }, report);
    }
    await this.#watch.look(options);
    if (found === 'sending' || found === 'ended') {
      this.#adopted = true;
      this.#begun = true;
      this.#way = RamWay.found(qmp, server);
      // Whoever waits for the pause may try it with another QEMU over there.
      if (found === 'ended') return this.#broken.reject(brokenOff());
      await holdStream(qmp, limits.maxBandwidth, options);
    } else if (!(await this.#begin(options))) return;
    this.#follow();
  }

  /** False where the way cannot be opened: the destination may have another one. */
  async #begin(options: WaitOptions): Promise<boolean> {
    const { limits } = this.#parts;
    const qmp = this.#qmp;
    try {
      const { way, address: addr } = await RamWay.open({ ...this.#parts, qmp }, options);
      this.#way = way;
      await setUpStream(qmp, way.credentials, limits.maxBandwidth, options);
      this.#begun = true;
      await qmp.execute('migrate', { channels: [{ 'channel-type': 'main', addr }] }, options);
      return true;
    } catch (error) {
      options.signal.throwIfAborted();
      if (!(error instanceof ReasonedError)) throw error;
      this.#broken.reject(error);
      return false;
    }
  }

  /** Hears from now on whatever ends the stream, or brings it as far as the pause. */
  #follow(): void {
    const { signal } = this.#lifetime;
    const watch = new AbortController();
    this.#watch
      .follow({ signal })
      .finally(() => watch.abort(new Error('The guest is paused.')))
      .then(this.#paused.resolve, this.#paused.reject);
    watchRam(this.#qmp, { signal: watch.signal }).catch((error) => {
      if (error instanceof DomainError) this.#broken.reject(error);
    });
    const begun = this.#adopted ? Promise.resolve() : this.#watch.began;
    watchBegin(Promise.race([begun, this.#paused.promise]), signal).catch(this.#broken.reject);
    this.#way?.carriage?.done.catch(async (error: unknown) => {
      this.#carriageError = error;
      await delay(QEMU_SAYS_MS, undefined, { ref: false });
      this.#broken.reject(error);
    });
  }

  #explain(error: unknown, doing: string): Promise<Error> {
    return explainRam(error, this.#carriageError, this.#faults, doing);
  }
}

import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import { type DiskSample, loadOf, sampleDisks, totalLoad } from './disk-load.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { GentleControl } from './gentle.js';
import type { Mirror } from './mirror.js';
import { Convergence } from './mirror-convergence.js';
import { CopyOrder, sharesOf } from './mirror-order.js';

/** How often the mirrors are looked at, in milliseconds. */
const INTERVAL_MS = 500;

const STEP = { limitMs: STEP_LIMIT_MS };

/** What keeps mirrors at their pace. */
export interface MirrorPaceParts {
  readonly qmp: QmpClient;
  readonly mirrors: readonly Mirror[];
  /** Bytes per second for all mirrors together; 0 is unlimited. */
  readonly speed: number;
  /** Undefined where the guest's own use of its disks does not come first. */
  readonly gentle: GentleControl | undefined;
  /** Reads QEMU's figures into the mirrors. */
  observe(): Promise<unknown>;
  /** Makes a mirror write-blocking. */
  block(mirror: Mirror): Promise<void>;
  readonly report: ReportProblem;
}

/**
 * Divides the speed among the mirrors while they copy: by turns, by what they may use together, and
 * by what the guest bears. Also finds the mirrors that do not get done because the guest writes too
 * fast, and makes those write-blocking.
 */
export class MirrorPace {
  readonly #parts: MirrorPaceParts;
  readonly #order = new CopyOrder();
  readonly #convergence: ReadonlyMap<Mirror, Convergence>;
  readonly #speeds = new Map<Mirror, number>();
  #total: number;
  #gentleLimit = 0;
  #running: ReadonlySet<string>;
  #sample: DiskSample | undefined;
  #copied: { readonly atMs: number; readonly bytes: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #look: Promise<void> | undefined;
  #stopped = false;

  constructor(parts: MirrorPaceParts) {
    this.#parts = parts;
    this.#total = parts.speed;
    this.#gentleLimit = parts.gentle?.limit ?? 0;
    this.#running = new Set(parts.mirrors.map(({ diskId }) => diskId));
    this.#convergence = new Map(
      parts.mirrors.map((mirror) => [mirror, new Convergence(mirror.progress.totalBytes)]),
    );
  }

  /** What a job begins with, in bytes per second. */
  get firstSpeed(): number {
    const { mirrors } = this.#parts;
    const [first] = sharesOf(
      this.#limit,
      mirrors.map(({ diskId }) => diskId),
      this.#running,
    ).values();
    return first ?? this.#limit;
  }

  /** Begins to look. The jobs have `firstSpeed`, or what is in `speeds` by disk id. */
  start(speeds: ReadonlyMap<string, number>): void {
    for (const mirror of this.#parts.mirrors) {
      this.#speeds.set(mirror, speeds.get(mirror.diskId) ?? this.firstSpeed);
    }
    this.#timer = setInterval(() => this.#tick(), INTERVAL_MS);
    this.#timer.unref();
    // The guest's first writes are counted from here on.
    this.#tick();
  }

  /** Ends all looks, and resolves when none is on its way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    await this.#look;
  }

  /** Bytes per second for all mirrors together from now on; 0 is unlimited. */
  async setSpeed(bytesPerSecond: number): Promise<void> {
    this.#total = bytesPerSecond;
    await this.#apply();
  }

  /** A mirror has become ready: the others get what it had. */
  async passOn(): Promise<void> {
    if (this.#stopped) return;
    this.#takeTurns();
    await this.#apply().catch((error: unknown) => this.#report(error));
  }

  /** What all may copy together, in bytes per second; 0 is unlimited. */
  get #limit(): number {
    const limits = [this.#total, this.#gentleLimit].filter((limit) => limit > 0);
    return limits.length > 0 ? Math.min(...limits) : 0;
  }

  #tick(): void {
    if (this.#look || this.#stopped) return;
    this.#look = this.#lookOnce()
      .catch((error: unknown) => this.#report(error))
      .finally(() => {
        this.#look = undefined;
      });
  }

  async #lookOnce(): Promise<void> {
    const { qmp, mirrors, observe } = this.#parts;
    const diskIds = mirrors.map(({ diskId }) => diskId);
    const [sample] = await Promise.all([
      sampleDisks(qmp, diskIds, STEP),
      // Whoever waits for the mirrors hears of one that has failed.
      observe().catch(() => undefined),
    ]);
    const before = this.#sample;
    if (before) this.#control(before, sample);
    this.#takeTurns(before, sample);
    this.#sample = sample;
    await this.#apply();
    await this.#unstick(sample.atMs);
  }

  #control(before: DiskSample, now: DiskSample): void {
    const load = totalLoad(before, now);
    const bytes = copiedBytes(this.#parts.mirrors);
    const last = this.#copied;
    this.#copied = { atMs: now.atMs, bytes };
    if (!this.#parts.gentle || !load || !last || now.atMs <= last.atMs) return;
    const rate = ((bytes - last.bytes) * 1000) / (now.atMs - last.atMs);
    this.#gentleLimit = this.#parts.gentle.next(load, rate);
  }

  #takeTurns(before = this.#sample, now = this.#sample): void {
    const waiting = this.#parts.mirrors.filter(({ isReady }) => !isReady);
    this.#running = this.#order.next({
      atMs: performance.now(),
      copiedBytes: copiedBytes(this.#parts.mirrors),
      limited: this.#limit > 0,
      disks: waiting.map(({ diskId }) => ({
        diskId,
        writeRate: before && now ? loadOf(diskId, before, now)?.bytesPerSecond : undefined,
      })),
    });
  }

  /** A ready mirror takes what it needs, whatever its speed is. */
  async #apply(): Promise<void> {
    if (this.#stopped) return;
    const { mirrors, qmp } = this.#parts;
    const waiting = mirrors.filter(({ isReady }) => !isReady);
    const ids = waiting.map(({ diskId }) => diskId);
    const shares = sharesOf(this.#limit, ids, this.#running);
    const changed = waiting.filter((mirror) => {
      const share = shares.get(mirror.diskId);
      return share !== undefined && share !== this.#speeds.get(mirror);
    });
    await Promise.all(
      changed.map(async (mirror) => {
        const speed = shares.get(mirror.diskId) ?? 0;
        this.#speeds.set(mirror, speed);
        await qmp.execute('block-job-set-speed', { device: mirror.job, speed }, STEP);
      }),
    );
  }

  async #unstick(atMs: number): Promise<void> {
    for (const mirror of this.#parts.mirrors) {
      const { ready, remainingBytes, transferredBytes: copiedBytes } = mirror.progress;
      const mark = { atMs, ready, remainingBytes, copiedBytes };
      const stuck = this.#convergence.get(mirror)?.stuck(mark);
      if (stuck && mirror.writeBlocking !== true && !this.#stopped) await this.#parts.block(mirror);
    }
  }

  /** A job that has just ended refuses; whoever waits for it hears of that. */
  #report(error: unknown): void {
    if (this.#stopped || error instanceof QmpClosedError) return;
    if (this.#parts.mirrors.some(({ hasFailed }) => hasFailed)) return;
    this.#parts.report('keep the mirrors at their pace', error);
  }
}

function copiedBytes(mirrors: readonly Mirror[]): number {
  return mirrors.reduce((sum, { progress }) => sum + progress.transferredBytes, 0);
}

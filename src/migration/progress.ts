import type { MirrorProgress, Mirrors, RamSend } from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import type { DiskProgress } from './migration.js';
import type { Tracker } from './tracker.js';

const INTERVAL_MS = 500;

/** Reads the figures of mirrors and RAM twice a second and publishes them. */
export class ProgressSampler {
  mirrors: Mirrors | undefined;
  ram: RamSend | undefined;
  readonly #tracker: Tracker;
  readonly #clock: Clock;
  readonly #earlier = new Map<string, { atMs: number; bytes: number; rate: number }>();
  #timer: NodeJS.Timeout | undefined;
  #busy = false;

  constructor(tracker: Tracker, clock: Clock) {
    this.#tracker = tracker;
    this.#clock = clock;
  }

  start(): void {
    this.#timer ??= setInterval(() => void this.#tick(), INTERVAL_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Reads and publishes once. */
  async sample(): Promise<void> {
    const [mirrors, ram] = await Promise.all([this.mirrors?.progress(), this.ram?.progress()]);
    this.#tracker.update({
      ...(mirrors ? { disks: mirrors.map((mirror) => this.#withRate(mirror)) } : {}),
      ...(ram ? { ram } : {}),
    });
  }

  async #tick(): Promise<void> {
    // A figure that cannot be read is no reason to fail: the flow finds out by itself what is
    // wrong.
    if (this.#busy) return;
    this.#busy = true;
    await this.sample().catch(() => {});
    this.#busy = false;
  }

  #withRate(mirror: MirrorProgress): DiskProgress {
    const atMs = this.#clock.nowMs();
    const earlier = this.#earlier.get(mirror.diskId);
    let rate = earlier?.rate ?? 0;
    if (!earlier || atMs - earlier.atMs >= 1000) {
      if (earlier) {
        rate = ((mirror.transferredBytes - earlier.bytes) * 1000) / (atMs - earlier.atMs);
      }
      this.#earlier.set(mirror.diskId, { atMs, bytes: mirror.transferredBytes, rate });
    }
    return { ...mirror, bytesPerSecond: Math.max(0, Math.round(rate)) };
  }
}

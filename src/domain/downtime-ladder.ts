import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';

/**
 * Parameters that keep QEMU from pausing a guest that still writes to its RAM: what is left would
 * have to be sent in a millisecond by a link of a thousand bytes per second. A limit of zero would
 * do the opposite: QEMU then takes its estimate of the rest for the truth, and pauses the guest
 * with a whole pass unsent.
 */
export const HELD = { 'downtime-limit': 1, 'avail-switchover-bandwidth': 1000 } as const;

/** The downtime that QEMU may plan for when it is released, in milliseconds. */
const FIRST_MS = 30;

/** Passes after the release before it is raised: each may leave far less than the one before. */
const PATIENT_PASSES = 3;

/** A rate over less time than this is mostly that of filling buffers, in milliseconds. */
const MEASURED_MS = 100;

const STEP = { limitMs: STEP_LIMIT_MS };

/** What QEMU had sent of the RAM, and when. */
interface Mark {
  readonly atMs: number;
  readonly bytes: number;
}

/**
 * The downtime that QEMU may plan for from a pass on, in milliseconds; passes count from 1, from
 * the release on.
 */
export function plannedDowntimeMs(pass: number, limitMs: number): number {
  return Math.min(limitMs, FIRST_MS * 2 ** Math.max(0, pass - PATIENT_PASSES));
}

/**
 * Lets the downtime be short where it can be.
 *
 * QEMU takes its limit for a wish: it stops the guest as soon as what is left fits into it, though
 * one more pass would often leave far less. So the limit begins low, and it is raised, up to what
 * is allowed, with every pass that has not been enough.
 *
 * QEMU's own idea of the link is what it has sent in the last tenth of a second. While it is held,
 * or while mirrors use the link, that is far from what the link will give once the guest stands
 * still. So it is told the most that the link has given.
 */
export class DowntimeLadder implements Disposable {
  readonly #qmp: QmpClient;
  readonly #limitMs: number;
  readonly #report: ReportProblem;
  readonly #events: EventListener<'MIGRATION_PASS' | 'STOP' | 'RESUME'>;
  readonly #ended = new AbortController();
  #pass = 0;
  #releasedAt: number | undefined;
  #mark: Mark | undefined;
  #bytesPerSecond = 0;
  #measuring = false;

  /** Make it before the stream begins; `report` hears of a step that did not work. */
  constructor(qmp: QmpClient, limitMs: number, report: ReportProblem) {
    this.#qmp = qmp;
    this.#limitMs = limitMs;
    this.#report = report;
    this.#events = qmp.listen('MIGRATION_PASS', 'STOP', 'RESUME');
    this.#follow().catch((error: unknown) => {
      // Otherwise the stream or QEMU has ended, and whoever waits for those hears of it.
      const ended = this.#ended.signal.aborted || error instanceof QmpClosedError;
      if (!ended) report('raise the downtime limit', error);
    });
  }

  /** True from the moment on at which QEMU was allowed to pause the guest. */
  get released(): boolean {
    return this.#releasedAt !== undefined;
  }

  /**
   * Allows QEMU to pause the guest. It looks at its limits ten times a second.
   * `linkBytesPerSecond`: what the link is known to give besides what is measured here; 0 is
   * unknown. Repeating it changes nothing.
   */
  async release(linkBytesPerSecond = 0): Promise<void> {
    if (this.released) return;
    this.#releasedAt = this.#pass;
    await this.#measure();
    const link = Math.max(this.#bytesPerSecond, linkBytesPerSecond);
    await this.#set({
      'downtime-limit': plannedDowntimeMs(1, this.#limitMs),
      // Zero leaves it to QEMU.
      'avail-switchover-bandwidth': Math.round(link),
    });
  }

  [Symbol.dispose](): void {
    this.#ended.abort(new Error('The RAM stream is over.'));
    this.#events[Symbol.dispose]();
  }

  async #follow(): Promise<void> {
    const { signal } = this.#ended;
    let currentMs = plannedDowntimeMs(1, this.#limitMs);
    let stopped = false;
    for (;;) {
      const event = await this.#events.next({ signal });
      if (event.name !== 'MIGRATION_PASS') {
        stopped = event.name === 'STOP';
        continue;
      }
      this.#pass = event.data.pass;
      if (this.#releasedAt === undefined) {
        // Held, QEMU says that it begins a pass thousands of times a second: all are to be heard.
        void this.#measureOnce();
        continue;
      }
      const nextMs = plannedDowntimeMs(this.#pass - this.#releasedAt, this.#limitMs);
      // The last pass is sent while the guest stands still: QEMU has better things to do then.
      if (stopped || nextMs <= currentMs) continue;
      currentMs = nextMs;
      await this.#set({ 'downtime-limit': nextMs });
    }
  }

  async #set(parameters: object): Promise<void> {
    const { signal } = this.#ended;
    await this.#qmp.execute('migrate-set-parameters', parameters, { ...STEP, signal });
  }

  /** Measures, unless that is under way. */
  async #measureOnce(): Promise<void> {
    if (this.#measuring) return;
    this.#measuring = true;
    await this.#measure().catch(() => undefined);
    this.#measuring = false;
  }

  /** Keeps the highest rate that QEMU has sent at. What cannot be read is left out. */
  async #measure(): Promise<void> {
    const { signal } = this.#ended;
    const before = this.#mark;
    if (before && performance.now() - before.atMs < MEASURED_MS) return;
    try {
      const info = await this.#qmp.execute('query-migrate', {}, { ...STEP, signal });
      if (!info.ram) return;
      const now = { atMs: performance.now(), bytes: info.ram.transferred };
      // Where nothing was measured before, all that was sent counts.
      const sinceMs = before
        ? now.atMs - before.atMs
        : Math.max(MEASURED_MS, (info['total-time'] ?? 0) - (info['setup-time'] ?? 0));
      const rate = ((now.bytes - (before?.bytes ?? 0)) * 1000) / sinceMs;
      this.#bytesPerSecond = Math.max(this.#bytesPerSecond, rate);
      this.#mark = now;
    } catch (error) {
      if (error instanceof QmpError) this.#report('measure the link', error);
    }
  }
}

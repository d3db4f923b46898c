import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';

/** The downtime that QEMU may plan for in the first passes, in milliseconds. */
const FIRST_MS = 30;

/** The last pass before it is raised: the first one sends everything, the next two what it left. */
const PATIENT_PASSES = 3;

/** The downtime that QEMU may plan for from a pass on, in milliseconds; passes count from 1. */
export function plannedDowntimeMs(pass: number, limitMs: number): number {
  return Math.min(limitMs, FIRST_MS * 2 ** Math.max(0, pass - PATIENT_PASSES));
}

/**
 * Lets the downtime be short where it can be.
 *
 * QEMU takes its limit for a wish: it stops the guest as soon as what is left fits into it, though
 * one more pass would often leave far less. So the limit begins low, and it is raised, up to what
 * is allowed, with every pass that has not been enough.
 */
export class DowntimeLadder implements Disposable {
  readonly #qmp: QmpClient;
  readonly #limitMs: number;
  readonly #passes: EventListener<'MIGRATION_PASS'>;
  readonly #ended = new AbortController();

  /** Make it before the stream begins; `report` hears of a step that did not work. */
  constructor(qmp: QmpClient, limitMs: number, report: ReportProblem) {
    this.#qmp = qmp;
    this.#limitMs = limitMs;
    this.#passes = qmp.listen('MIGRATION_PASS');
    this.#climb().catch((error: unknown) => {
      // Otherwise the stream or QEMU has ended, and whoever waits for those hears of it.
      if (error instanceof QmpError) report('raise the downtime limit', error);
    });
  }

  /** What to begin with, in milliseconds. */
  get firstMs(): number {
    return plannedDowntimeMs(1, this.#limitMs);
  }

  [Symbol.dispose](): void {
    this.#ended.abort(new Error('The RAM stream is over.'));
    this.#passes[Symbol.dispose]();
  }

  async #climb(): Promise<void> {
    const { signal } = this.#ended;
    for (let currentMs = this.firstMs; currentMs < this.#limitMs; ) {
      const { data } = await this.#passes.next({ signal });
      const nextMs = plannedDowntimeMs(data.pass, this.#limitMs);
      if (nextMs <= currentMs) continue;
      currentMs = nextMs;
      const step = { signal, limitMs: STEP_LIMIT_MS };
      await this.#qmp.execute('migrate-set-parameters', { 'downtime-limit': nextMs }, step);
    }
  }
}

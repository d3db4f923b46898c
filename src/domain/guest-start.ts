import type { QemuProcess } from '../process/qemu-process.js';
import type { ExecuteOptions, QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpError } from '../qmp/errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { wrongState } from './incoming-load.js';
import type { WaitOptions } from './types.js';

/**
 * How the guest makes itself known to the switches, as QEMU would do by itself: five frames within
 * a second.
 */
const ANNOUNCEMENT = { initial: 50, max: 550, rounds: 5, step: 100 } as const;

const STEP = { limitMs: STEP_LIMIT_MS };

/** Lets loaded guests run, and knows what nobody else can: whether one may have. */
export class GuestStart {
  /** False as long as it is certain that no vCPU of the guest has run here. */
  mayHaveRun: boolean;
  readonly #report: ReportProblem;

  constructor(mayHaveRun: boolean, report: ReportProblem) {
    this.mayHaveRun = mayHaveRun;
    this.#report = report;
  }

  /** Runs the guest and announces it to the network. */
  async run(process: QemuProcess, options: WaitOptions): Promise<void> {
    const qmp = await process.reconnected();
    const step = { ...STEP, ...options };
    // QEMU resumes the guest before it answers `cont`, so the state asked for at the same time is
    // the one after it.
    const [, { status }] = await Promise.all([
      this.#continue(qmp, step),
      qmp.execute('query-status', {}, step),
    ]);
    // Any other state is the guest's own doing: it may have panicked or met a bad disk meanwhile.
    if (status === 'inmigrate') throw wrongState('resumed', status);
    this.announce(qmp);
  }

  /** The guest runs: that switches learn of it a moment later must not hold anybody up. */
  announce(qmp: QmpClient): void {
    qmp.execute('announce-self', ANNOUNCEMENT, STEP).catch((error) => {
      if (error instanceof QmpClosedError) return;
      this.#report('announce the guest to the network', error);
    });
  }

  /** Only QEMU's own word proves that the guest did not run; silence and a broken line do not. */
  async #continue(qmp: QmpClient, step: ExecuteOptions): Promise<void> {
    const before = this.mayHaveRun;
    this.mayHaveRun = true;
    try {
      await qmp.execute('cont', {}, step);
    } catch (error) {
      if (error instanceof QmpError) this.mayHaveRun = before;
      throw error;
    }
  }
}

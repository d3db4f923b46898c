import { describeExit } from '../process/errors.js';
import type { QemuProcess } from '../process/qemu-process.js';
import { QmpClosedError, QmpError, QmpTimeoutError } from '../qmp/errors.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import type { Side } from '../util/reasoned-error.js';
import { DomainError } from './errors.js';

/** Longest time for one step of QEMU in milliseconds, above all while the guest is paused. */
export const STEP_LIMIT_MS = 5_000;

/** A process whose monitor has closed is gone within this time, or it is not going at all. */
const EXIT_LIMIT_MS = 2_000;

/**
 * What an undo hears of a step that did not work. `step` completes the sentence "could not ...".
 */
export type ReportProblem = (step: string, error: unknown) => void;

/**
 * Tells in Drover's words what went wrong with one QEMU. Arm it before the work; it ends with its
 * scope.
 */
export class QemuFaults implements Disposable {
  readonly #process: QemuProcess;
  readonly #side: Side;
  readonly #shutdown;
  #guestStopped = false;

  constructor(process: QemuProcess, side: Side) {
    this.#process = process;
    this.#side = side;
    this.#shutdown = process.qmp.listen('SHUTDOWN');
    void this.#listen();
  }

  /** Makes the error that a caller gets; `doing` completes the sentence "... while <doing>". */
  async explain(error: unknown, doing: string): Promise<Error> {
    if (error instanceof QmpClosedError) return await this.ended(doing, error);
    if (error instanceof QmpError) {
      return new DomainError(
        'QEMU_ERROR',
        `QEMU on the ${this.#side} refused ${error.command} while ${doing}: ${error.description}`,
        {
          cause: error,
          side: this.#side,
          facts: { qmp_command: error.command, qemu_error: error.description },
        },
      );
    }
    if (error instanceof QmpTimeoutError) {
      return new DomainError(
        'STALLED',
        `QEMU on the ${this.#side} did not give ${error.waitedFor} within ${error.limitMs} ms while ${doing}.`,
        { cause: error, side: this.#side, facts: { limit_ms: error.limitMs } },
      );
    }
    // A QEMU whose guest has powered off cancels its jobs on its way out.
    const failed = error instanceof DomainError && error.reason === 'MIRROR_FAILED';
    if (failed && this.#guestStopped) return await this.#stopped(doing, error);
    return error instanceof Error ? error : new Error(String(error));
  }

  /** Makes the error of a QEMU that has gone, with how it ended and the end of its log. */
  async ended(doing: string, cause?: unknown): Promise<DomainError> {
    const { qmp, exited } = this.#process;
    using limit = withTimeout(undefined, EXIT_LIMIT_MS, () => new Error('QEMU did not end.'));
    const lives = this.#process.reconnected().then(
      () => 'lives' as const,
      () => exited,
    );
    const end = await untilAborted(Promise.race([exited, lives]), limit.signal).catch(
      () => undefined,
    );
    if (end === 'lives') return this.#disconnected(doing, cause);
    const exit = end;
    if (this.#guestStopped && this.#side === 'source') return await this.#stopped(doing, cause);
    const how = exit ? describeExit(exit) : 'closed its monitor';
    const log = (await this.#process.logTail()).trim();
    return new DomainError(
      this.#side === 'source' ? 'SOURCE_QEMU_DIED' : 'DEST_QEMU_DIED',
      `QEMU on the ${this.#side} ${how} while ${doing}: ${log.split('\n').at(-1) || 'it printed nothing'}`,
      {
        cause,
        side: this.#side,
        facts: {
          qemu_version: Object.values(qmp.greeting.version).join('.'),
          ...(exit?.code === undefined ? {} : { exit_code: exit.code }),
          ...(exit?.signal === undefined ? {} : { exit_signal: exit.signal }),
          log_tail: log,
        },
      },
    );
  }

  [Symbol.dispose](): void {
    this.#shutdown[Symbol.dispose]();
  }

  /** Waits for its QEMU, which is on its way out, so that nobody takes it for one that lives. */
  async #stopped(doing: string, cause: unknown): Promise<DomainError> {
    using limit = withTimeout(undefined, EXIT_LIMIT_MS, () => new Error('QEMU did not end.'));
    await untilAborted(this.#process.exited, limit.signal).catch(() => undefined);
    const options = { cause, side: this.#side };
    return new DomainError('GUEST_STOPPED', `The guest powered off while ${doing}.`, options);
  }

  #disconnected(doing: string, cause: unknown): DomainError {
    return new DomainError(
      'QEMU_ERROR',
      `The connection to QEMU on the ${this.#side} broke while ${doing}; QEMU lives.`,
      { cause, side: this.#side },
    );
  }

  /** A guest's own power-off is told apart from somebody who ends QEMU. */
  async #listen(): Promise<void> {
    const signal = new AbortController().signal;
    await this.#shutdown
      .next(({ data }) => data.guest, { signal })
      .then(
        () => {
          this.#guestStopped = true;
        },
        // The listener has ended, and with it all that can be heard.
        () => undefined,
      );
  }
}

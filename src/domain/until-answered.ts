import { setTimeout as delay } from 'node:timers/promises';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import type { ReportProblem } from './faults.js';

/** A QEMU that did not answer is asked again after this time in milliseconds. */
const AGAIN_MS = 500;

/**
 * Tries an undo until QEMU has answered or is gone: whatever is not undone stays so for ever.
 * `undo` says false where it had no answer. What a second try reports has been said already.
 * `limitMs`: the last try begins within this time; default: none.
 */
export async function untilAnswered(
  process: QemuProcess,
  report: ReportProblem,
  undo: (qmp: QmpClient, report: ReportProblem) => Promise<boolean>,
  { limitMs = Number.POSITIVE_INFINITY } = {},
): Promise<void> {
  const endMs = performance.now() + limitMs;
  for (let tries = 0; !process.isEnding && performance.now() < endMs; tries++) {
    try {
      const problems = tries === 0 ? report : () => undefined;
      if (await undo(await process.reconnected(), problems)) return;
    } catch (error) {
      // Its connection broke, or QEMU has gone: the next turn tells which.
      if (!(error instanceof QmpClosedError)) throw error;
    }
    await Promise.race([process.exited, delay(AGAIN_MS, undefined, { ref: false })]);
  }
}

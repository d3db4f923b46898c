import type { QemuProcess } from '../process/qemu-process.js';
import { QmpClosedError } from '../qmp/errors.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { isHeld, isLive } from './resume-source.js';

/** A guest that must not go on is paused within this time in milliseconds, or its QEMU ends. */
const STAND_LIMIT_MS = 2_000;

/** How long `get` and `list` wait for QEMU's word, in milliseconds. */
const QUERY_LIMIT_MS = 2_000;

/** What a guest does; `held` by a migration, or `silent` where QEMU does not say. */
export type GuestState = 'runs' | 'stands' | 'held' | 'silent' | 'gone';

/** Looks at a guest for a list; whoever waits for that does not wait long. */
export async function observeGuest(process: QemuProcess | undefined): Promise<GuestState> {
  if (!process) return 'gone';
  try {
    const { status } = await process.qmp.execute('query-status', {}, { limitMs: QUERY_LIMIT_MS });
    if (status === 'running') return 'runs';
    return isHeld(status) ? 'held' : 'stands';
  } catch {
    return 'silent';
  }
}

/**
 * Asks the guest to power off and waits until QEMU has gone.
 *
 * @throws DomainError `DOMAIN_NOT_RUNNING` for a paused guest, `STALLED` after `limitMs`
 */
export async function powerDown(
  process: QemuProcess,
  name: string,
  limitMs: number,
  options: { readonly signal: AbortSignal },
): Promise<void> {
  using limit = withTimeout(
    options.signal,
    limitMs,
    () =>
      new DomainError(
        'STALLED',
        `The guest of ${name} did not power off within ${limitMs / 1000} s.`,
        { hint: 'Stop it with --force.', facts: { limit_ms: limitMs } },
      ),
  );
  try {
    const { status } = await process.qmp.execute('query-status', {}, { signal: limit.signal });
    if (status !== 'running') {
      throw new DomainError('DOMAIN_NOT_RUNNING', `The guest of ${name} is ${status}.`, {
        hint: 'A paused guest cannot power off: start it, or stop it with --force.',
      });
    }
    await process.qmp.execute('system_powerdown', {}, { signal: limit.signal });
  } catch (error) {
    // It was about to end anyway.
    if (!(error instanceof QmpClosedError)) throw error;
  }
  await untilAborted(process.exited, limit.signal);
}

/**
 * Makes sure that the guest does not run when this resolves: it is paused, so that its memory can
 * still be looked at; a QEMU that does not say so in time is killed.
 */
export async function standStill(process: QemuProcess): Promise<void> {
  const limit = { limitMs: STAND_LIMIT_MS };
  try {
    const [, { status }] = await Promise.all([
      process.qmp.execute('stop', {}, limit),
      process.qmp.execute('query-status', {}, limit),
    ]);
    if (!isLive(status)) return;
  } catch {
    // What was wrong does not matter: it must not run.
  }
  await process.kill();
}

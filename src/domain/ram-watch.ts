import { setTimeout as delay } from 'node:timers/promises';
import type { QmpClient } from '../qmp/client.js';
import { deferred } from '../util/deferred.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { DomainError } from './errors.js';
import { type QemuFaults, STEP_LIMIT_MS } from './faults.js';
import { notSent } from './ram-progress.js';
import type { WaitOptions } from './types.js';

/** How often QEMU is asked how far it has come, in milliseconds. */
const LOOK_MS = 5_000;

/**
 * A stream in which not one byte moves for this long is dead, in milliseconds: even the slowest one
 * sends something in each second.
 */
const DEAD_MS = 30_000;

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * Resolves when QEMU has begun to send, or has ended what it was to send, or the signal fires.
 *
 * @throws DomainError `STALLED` where none of that comes
 */
export async function watchBegin(begun: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const late = deferred();
  const timer = setTimeout(
    () => late.reject(notSent('The first RAM', STEP_LIMIT_MS)),
    STEP_LIMIT_MS,
  );
  signal.addEventListener('abort', () => late.resolve(), { once: true });
  try {
    await Promise.race([begun.catch(() => undefined), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Rejects when nothing has been sent for half a minute: a destination whose host has gone without a
 * word is noticed by nobody else. Otherwise it goes on until the signal fires.
 *
 * @throws DomainError `RAM_FAILED`
 */
export async function watchRam(qmp: QmpClient, options: WaitOptions): Promise<never> {
  let seenBytes = -1;
  for (let seenMs = performance.now(); ; ) {
    await delay(LOOK_MS, undefined, { ...options, ref: false });
    const { ram } = await qmp.execute('query-migrate', {}, { ...STEP, ...options });
    const nowMs = performance.now();
    const bytes = ram?.transferred ?? seenBytes;
    if (bytes !== seenBytes) {
      seenBytes = bytes;
      seenMs = nowMs;
    } else if (nowMs - seenMs >= DEAD_MS) {
      throw new DomainError('RAM_FAILED', `No RAM has been sent for ${DEAD_MS / 1000} s.`, {
        side: 'source',
        facts: { limit_ms: DEAD_MS, transferred_bytes: bytes },
      });
    }
  }
}

/**
 * The error that a caller gets. When the stream broke first, its own reason says more than QEMU's,
 * which only saw the end of a socket.
 */
export async function explainRam(
  error: unknown,
  streamError: unknown,
  faults: QemuFaults,
  doing: string,
): Promise<Error> {
  const byStream = error === streamError || (error as DomainError).reason === 'RAM_FAILED';
  if (streamError === undefined || !byStream) return await faults.explain(error, doing);
  if (streamError instanceof ReasonedError) return streamError;
  if (error instanceof DomainError) return error;
  const message = `The RAM stream broke while ${doing}.`;
  return new DomainError('RAM_FAILED', message, { cause: streamError });
}

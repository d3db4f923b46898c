import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../util/log.js';

const PAUSE_MS = 1_000;

/**
 * Tries something that a QEMU which does not answer keeps from working. `now` is what it came to;
 * where that was nothing, it is tried again behind until it works, and `later` resolves.
 */
export async function nowOrLater<T extends object>(
  work: () => Promise<T>,
  log: Log,
  stopping: AbortSignal,
): Promise<{ readonly now: T | undefined; readonly later: Promise<T> }> {
  try {
    const now = await work();
    return { now, later: Promise.resolve(now) };
  } catch (error) {
    log.error({ err: error }, 'could not find out what QEMU does; trying again');
  }
  const later = (async () => {
    for (;;) {
      await delay(PAUSE_MS, undefined, { signal: stopping });
      try {
        return await work();
      } catch (error) {
        log.warn({ err: error }, 'could not find out what QEMU does yet');
      }
    }
  })();
  later.catch(() => undefined);
  return { now: undefined, later };
}

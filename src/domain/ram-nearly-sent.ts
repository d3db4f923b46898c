import { setTimeout as delay } from 'node:timers/promises';
import type { QmpClient } from '../qmp/client.js';
import type { EventListener } from '../qmp/event-listener.js';
import { readRamProgress } from './ram-progress.js';
import type { WaitOptions } from './types.js';

/** So long before its end the first pass counts as done, in milliseconds. */
const LEAD_MS = 150;

/** The shortest and the longest time between two looks, in milliseconds. */
const LOOK_MS = { least: 20, most: 500 };

const SECOND_PASS = 2;

/**
 * Resolves when the first pass over the RAM is about to end, or has ended. `passes` are those since
 * before the stream began.
 *
 * What must be done before QEMU may pause the guest is then done just in time: QEMU that is held
 * back after the first pass does nothing but pass after pass, thousands in a second, and that it is
 * held back no more it notices only a tenth of a second later.
 */
export async function untilNearlySent(
  qmp: QmpClient,
  passes: EventListener<'MIGRATION_PASS'>,
  { signal }: WaitOptions,
): Promise<void> {
  const looking = new AbortController();
  const second = passes.next(({ data }) => data.pass >= SECOND_PASS, { signal });
  const ended = second.finally(() => looking.abort());
  ended.catch(() => undefined);
  let before: { readonly atMs: number; readonly bytes: number } | undefined;
  for (;;) {
    const { pass, remainingBytes: bytes, totalBytes } = await readRamProgress(qmp);
    const now = { atMs: performance.now(), bytes };
    if (pass >= SECOND_PASS) return;
    // Before the stream has begun nothing is left to be sent, either.
    const left = before && totalBytes > 0 ? leftMs(before, now) : undefined;
    if (left !== undefined && left <= LEAD_MS) return;
    before = now;
    const pauseMs = Math.min(LOOK_MS.most, Math.max(LOOK_MS.least, ((left ?? 0) - LEAD_MS) / 2));
    const pause = delay(pauseMs, undefined, { signal: looking.signal }).catch(() => undefined);
    await Promise.race([pause, ended]);
    signal.throwIfAborted();
  }
}

/** The time until nothing is left, as fast as it went since; undefined where nothing went. */
function leftMs(
  before: { readonly atMs: number; readonly bytes: number },
  now: { readonly atMs: number; readonly bytes: number },
): number | undefined {
  const sent = before.bytes - now.bytes;
  return sent > 0 ? (now.bytes * (now.atMs - before.atMs)) / sent : undefined;
}

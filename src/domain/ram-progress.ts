import type { QmpClient } from '../qmp/client.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { RamProgress } from './types.js';

const STEP = { limitMs: STEP_LIMIT_MS };

/** QEMU's figures of the RAM that it sends. */
export async function readRamProgress(qmp: QmpClient): Promise<RamProgress> {
  const info = await qmp.execute('query-migrate', {}, STEP);
  const { ram } = info;
  return {
    totalBytes: ram?.total ?? 0,
    transferredBytes: ram?.transferred ?? 0,
    remainingBytes: ram?.remaining ?? 0,
    bytesPerSecond: Math.round(((ram?.mbps ?? 0) * 1e6) / 8),
    dirtyBytesPerSecond: (ram?.['dirty-pages-rate'] ?? 0) * (ram?.['page-size'] ?? 0),
    pass: ram?.['dirty-sync-count'] ?? 0,
    expectedDowntimeMs: info['expected-downtime'] ?? 0,
    downtimeMs: info.status === 'completed' ? info.downtime : undefined,
  };
}

/** The error for RAM that should have been sent by now. */
export function notSent(what: string, limitMs: number): DomainError {
  return new DomainError('STALLED', `${what} was not sent within ${limitMs} ms.`, {
    side: 'source',
    facts: { limit_ms: limitMs },
  });
}

/** The error for a stream that ended before this life of the agent could see it. */
export function brokenOff(): DomainError {
  const message = 'What an earlier life of the agent sent of the RAM has broken off.';
  return new DomainError('RAM_FAILED', message, { side: 'source' });
}

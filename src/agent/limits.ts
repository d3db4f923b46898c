import { z } from 'zod';
import { DEFAULT_INCOMING_LIMITS, type IncomingLimits } from '../migration/incoming-limits.js';
import { type ConnectionLimits, DEFAULT_CONNECTION_LIMITS } from '../rpc/limits.js';
import { wholeNumber } from '../spec/fields.js';

/** What others may take of this host. */
export interface Limits extends ConnectionLimits, IncomingLimits {
  /** Bytes of each of the four files of the audit. Default: 8388608. */
  readonly auditFileBytes: number;
}

export const DEFAULT_LIMITS: Limits = {
  ...DEFAULT_CONNECTION_LIMITS,
  ...DEFAULT_INCOMING_LIMITS,
  auditFileBytes: 8 * 1024 * 1024,
};

const DAY_MS = 86_400_000;

/** The least and the most of each limit. */
export const LIMIT_RANGES: Readonly<Record<keyof Limits, readonly [number, number]>> = {
  connections: [16, 65_536],
  connectionsPerAddress: [4, 65_536],
  callsPerCaller: [8, 65_536],
  idleMs: [10_000, DAY_MS],
  connectMs: [500, 60_000],
  requestMs: [500, 60_000],
  incoming: [1, 1_000],
  incomingPerPeer: [1, 1_000],
  preparesPerMinute: [10, 100_000],
  leaseMs: [60_000, 7 * DAY_MS],
  auditFileBytes: [65_536, 1024 ** 3],
};

/** The schema of the group `limits`; what is left out has its default. */
export function limitsSchema() {
  const field = (name: keyof Limits) => {
    const [least, most] = LIMIT_RANGES[name];
    const allowed = `must be a whole number from ${least} to ${most}`;
    return wholeNumber(least, most, allowed).default(DEFAULT_LIMITS[name]);
  };
  return z.strictObject(
    {
      connections: field('connections'),
      connectionsPerAddress: field('connectionsPerAddress'),
      callsPerCaller: field('callsPerCaller'),
      idleMs: field('idleMs'),
      connectMs: field('connectMs'),
      requestMs: field('requestMs'),
      incoming: field('incoming'),
      incomingPerPeer: field('incomingPerPeer'),
      preparesPerMinute: field('preparesPerMinute'),
      leaseMs: field('leaseMs'),
      auditFileBytes: field('auditFileBytes'),
    },
    { error: 'must be a group of fields' },
  );
}

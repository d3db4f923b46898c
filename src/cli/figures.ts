import type { DiskProgress, Migration } from '../gen/drover/v1/migration.js';

/** The phases in their order, as people read them. */
export const PHASE_NAMES: readonly string[] = [
  'prepare',
  'mirror',
  'precopy',
  'switchover',
  'handover',
  'cleanup',
];

/**
 * The name of an enum value of the wire without its prefix, in lower case: `PHASE_MIRROR` is
 * `mirror`.
 */
export function shortName(value: string): string {
  return value
    .replace(/^(?:STATE|PHASE|RUNNING_ON|TRANSPORT|SIDE|CERTAINTY|DECISION)_/, '')
    .toLowerCase();
}

/** The short name of the phase; empty before the first one. */
export function phaseName(migration: Migration): string {
  return migration.phase === 'PHASE_UNSPECIFIED' ? '' : shortName(migration.phase);
}

/** Whether nothing more will happen to the migration. One in doubt goes on. */
export function hasEnded(migration: Migration): boolean {
  const { state } = migration;
  return state === 'STATE_SUCCEEDED' || state === 'STATE_FAILED' || state === 'STATE_CANCELLED';
}

/** From accepted until ended, or until now, in milliseconds. */
export function elapsedMs(migration: Migration, now: Date): number {
  const start = migration.createTime ?? now;
  return Math.max(0, (migration.endTime ?? now).getTime() - start.getTime());
}

/** Where the guest is, in words. */
export function guestPlace(migration: Migration): string {
  switch (migration.runningOn) {
    case 'RUNNING_ON_SOURCE':
      return `guest runs on ${migration.sourceHost}`;
    case 'RUNNING_ON_DESTINATION':
      return `guest runs on ${migration.destinationHost}`;
    case 'RUNNING_ON_NOWHERE':
      return 'guest is paused';
    case 'RUNNING_ON_UNKNOWN':
      return 'not known where the guest is';
    default:
      return '';
  }
}

/** All mirrors taken together. */
export interface DiskTotals {
  readonly count: number;
  readonly ready: number;
  readonly totalBytes: number;
  readonly transferredBytes: number;
  readonly bytesPerS: number;
}

/** Adds the disks up. */
export function sumDisks(disks: readonly DiskProgress[]): DiskTotals {
  const sum = (pick: (disk: DiskProgress) => number) => disks.reduce((n, d) => n + pick(d), 0);
  return {
    count: disks.length,
    ready: disks.filter((d) => d.ready).length,
    totalBytes: sum((d) => d.totalBytes),
    transferredBytes: sum((d) => d.transferredBytes),
    bytesPerS: sum((d) => d.bytesPerS),
  };
}

/** A share as a number from 0 to 1. Nothing of nothing is all of it. */
export function share(part: number, whole: number): number {
  return whole <= 0 ? 1 : Math.min(1, Math.max(0, part / whole));
}

/** A share in percent; 100 only when it is complete. */
export function percent(part: number, whole: number): string {
  return `${Math.floor(share(part, whole) * 100)} %`;
}

import type { Migration } from '../gen/drover/v1/migration.js';
import { formatDuration, formatSize } from '../util/bytes.js';
import { elapsedMs, hasEnded, percent, phaseName, shortName, sumDisks } from './figures.js';

/** A migration as it stands in one line, for a log or where lines cannot be rewritten. */
export function progressLine(migration: Migration, now: Date): string {
  const time = formatDuration(elapsedMs(migration, now)).padStart(8);
  return `${time}  ${migration.domainName}: ${situation(migration)}`;
}

/**
 * What has to differ for the next line to be printed at once rather than when its time has come.
 */
export function progressKey(migration: Migration): string {
  const ready = sumDisks(migration.disks).ready;
  return [migration.state, migration.phase, migration.runningOn, ready].join(' ');
}

function situation(migration: Migration): string {
  if (migration.state === 'STATE_IN_DOUBT') {
    return `in doubt: ${migration.failure?.message || 'it is not known which host owns the guest'}`;
  }
  if (hasEnded(migration)) return shortName(migration.state);
  const phase = phaseName(migration);
  if (phase === 'mirror') return [phase, ...diskFigures(migration)].join(', ');
  if (phase === 'precopy') return [phase, ...ramFigures(migration)].join(', ');
  return phase || shortName(migration.state);
}

function diskFigures(migration: Migration): string[] {
  if (migration.disks.length === 0) return [];
  const sum = sumDisks(migration.disks);
  const figures = [
    `${sum.ready} of ${sum.count} disks ready`,
    `${formatSize(sum.transferredBytes)} of ${formatSize(sum.totalBytes)}`,
    percent(sum.transferredBytes, sum.totalBytes),
  ];
  if (sum.bytesPerS > 0) figures.push(`${formatSize(sum.bytesPerS)}/s`);
  return figures;
}

function ramFigures(migration: Migration): string[] {
  const { ram } = migration;
  if (!ram) return [];
  const figures = [
    `RAM pass ${ram.pass}`,
    `${formatSize(ram.remainingBytes)} left`,
    `dirtied ${formatSize(ram.dirtyBytesPerS)}/s`,
  ];
  if (ram.expectedDowntimeMs > 0) {
    figures.push(`expected downtime ${formatDuration(ram.expectedDowntimeMs)}`);
  }
  return figures;
}

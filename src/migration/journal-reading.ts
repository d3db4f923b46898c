import { destinationStateOf, sourceStateOf, type Written } from './handover.js';
import type {
  DestinationRecord,
  DestinationState,
  Rank,
  SourceRecord,
  SourceState,
} from './handover-types.js';
import type { JournalEntry, JournalHeader } from './journal.js';
import type { Migration } from './migration.js';
import type { Phase } from './phase.js';
import type { ChosenTransport } from './transport.js';

/** What a journal holds, whether it is open or not. */
export interface ReadJournal {
  readonly header: JournalHeader;
  readonly entries: readonly JournalEntry[];
}

const SOURCE_RECORDS: ReadonlySet<string> = new Set<SourceRecord>([
  'STARTED',
  'DST_PREPARED',
  'SWITCHING',
  'COMMITTED',
  'DONE',
  'ABORTED',
  'RECLAIMED',
  'SUPERSEDED',
]);

const DESTINATION_RECORDS: ReadonlySet<string> = new Set<DestinationRecord>([
  'PREPARED',
  'LOADED',
  'OWNED',
  'RUNNING',
  'SOURCE_GONE',
  'ABORTED',
  'SUPERSEDED',
]);

/** In which phase each record was written. */
const PHASE_OF: ReadonlyMap<unknown, Phase> = new Map(
  Object.entries<Phase>({
    STARTED: 'prepare',
    PREPARED: 'prepare',
    DST_PREPARED: 'prepare',
    MIRRORING: 'mirror',
    EXPORTED: 'mirror',
    RAM: 'precopy',
    SWITCHING: 'switchover',
    LOADED: 'switchover',
    COMMITTED: 'handover',
    OWNED: 'handover',
    DONE: 'cleanup',
    RUNNING: 'cleanup',
  }),
);

/** The source's half as its journal tells it. */
export function readSource({ header, entries }: ReadJournal): SourceState {
  return sourceStateOf(rankOf(header), decisions<SourceRecord>(header, entries, SOURCE_RECORDS));
}

/** The destination's half as its journal tells it. */
export function readDestination({ header, entries }: ReadJournal): DestinationState {
  const written = decisions<DestinationRecord>(header, entries, DESTINATION_RECORDS);
  const atSource = { epoch: header.epoch, generation: header.generation - 1 };
  return destinationStateOf(atSource, written);
}

/** The phase that the last records belong to. */
export function readPhase({ entries }: ReadJournal): Phase | undefined {
  return entries.map(({ record }) => PHASE_OF.get(record)).findLast((phase) => phase !== undefined);
}

/** True where the guest's user had paused it, as the last record has it that says so. */
export function readPaused({ entries }: ReadJournal): boolean {
  return entries.findLast((entry) => 'paused' in entry)?.['paused'] === true;
}

/** Which of the incoming QEMUs the last record that says so is about. */
export function readAttempt({ header, entries }: ReadJournal): number {
  const attempt = entries.findLast((entry) => 'attempt' in entry)?.['attempt'];
  return Number.isSafeInteger(attempt) ? (attempt as number) : header.attempt;
}

/** A detail of the last record that has it. */
export function readText({ entries }: ReadJournal, detail: string): string {
  const value = entries.findLast((entry) => detail in entry)?.[detail];
  return typeof value === 'string' ? value : '';
}

/** How disks and RAM travel, as soon as a mirror may have been begun. */
export function readTransport({ entries }: ReadJournal): ChosenTransport | undefined {
  const mirroring = entries.findLast(({ record }) => record === 'MIRRORING');
  if (!mirroring) return undefined;
  const { transport, reason, roundTripMs } = mirroring;
  return {
    transport: transport === 'stream' ? 'stream' : 'direct',
    reason: typeof reason === 'string' ? reason : '',
    ...(typeof roundTripMs === 'number' ? { roundTripMs } : {}),
  };
}

/** How the migration ended, where nothing is left to do. */
export function readEnd({ entries }: ReadJournal): Partial<Migration> | undefined {
  const ended = entries.findLast(({ record }) => record === 'ENDED');
  if (!ended) return undefined;
  const { state, runningOn, failure, summary } = ended as Partial<Migration>;
  const endTime = new Date(ended.at);
  return {
    ...(state ? { state } : {}),
    ...(runningOn ? { runningOn } : {}),
    failure,
    summary,
    endTime,
    cancellable: false,
  };
}

function decisions<Record extends SourceRecord | DestinationRecord>(
  header: JournalHeader,
  entries: readonly JournalEntry[],
  records: ReadonlySet<string>,
): Written<Record>[] {
  return entries
    .filter(({ record }) => records.has(record))
    .map((entry) => ({ record: entry.record as Record, rank: rankOf({ ...header, ...entry }) }));
}

function rankOf({ epoch, generation }: Rank): Rank {
  return { epoch, generation };
}

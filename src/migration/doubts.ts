import type { Doubt } from '../domain/types.js';
import type { Log } from '../util/log.js';
import { asReasoned, MigrationError } from './errors.js';
import type { DestinationState, Rank, SourceState } from './handover-types.js';
import { destinationMayRun, isComing, sourceMayRun } from './handover-types.js';
import type { Journal } from './journal.js';
import type { JournalFile } from './journals.js';

/** Of which migration a doubt is. */
export interface DoubtSubject {
  readonly domainName: string;
  /** The other host. */
  readonly peer: string;
  readonly migrationId: string;
  /** True where the journal takes no more records. */
  readonly broken: boolean;
}

/** Why the source may not touch the domain; undefined where it may, or has nothing to touch. */
export function doubtOfSource(state: SourceState, subject: DoubtSubject): Doubt | undefined {
  if (state.record === 'DONE') return undefined;
  if (state.record === 'SUPERSEDED') return superseded(subject, state.rank);
  if (subject.broken) return broken(subject);
  if (sourceMayRun(state)) return undefined;
  return unknown(subject, `${howFar(state, subject)}.`);
}

function howFar({ record, held }: SourceState, { domainName, peer }: DoubtSubject): string {
  if (held && record === 'RECLAIMED') {
    const since = `which has not said since this agent's restart that it keeps off it`;
    return `${domainName} was taken back from ${peer}, ${since}`;
  }
  const silent = `${peer}, which has not said yet whether it took it`;
  if (held) return `The host has booted again while ${domainName} was moving to ${silent}`;
  return `${domainName} was given up to ${silent}`;
}

/** The same for the destination. */
export function doubtOfDestination(
  state: DestinationState,
  subject: DoubtSubject,
): Doubt | undefined {
  if (state.record === 'SUPERSEDED') return superseded(subject, state.rank);
  if (subject.broken) return broken(subject);
  if (isComing(state.record) || state.record === 'ABORTED') return undefined;
  if (destinationMayRun(state)) return undefined;
  const { domainName, peer } = subject;
  const since = `which has not said since this agent's restart that it keeps off it`;
  return unknown(subject, `${domainName} came from ${peer}, ${since}.`);
}

function unknown(subject: DoubtSubject, message: string): Doubt {
  return { reason: 'OWNERSHIP_UNKNOWN', message, facts: factsOf(subject) };
}

function superseded(subject: DoubtSubject, { epoch, generation }: Rank): Doubt {
  const where = `${subject.domainName} belongs to ${subject.peer} by a person's word`;
  const message = `${where}; the images here are an old copy.`;
  const copy = { epoch, generation };
  return { reason: 'OWNERSHIP_LOST', message, facts: factsOf(subject), copy };
}

function broken(subject: DoubtSubject): Doubt {
  const what = `the migration of ${subject.domainName}`;
  const message = `The journal of ${what} could not be made durable.`;
  return { reason: 'JOURNAL_FAILED', message, facts: factsOf(subject) };
}

function factsOf({ migrationId, peer }: DoubtSubject) {
  return { migration_id: migrationId, peer };
}

/** Writes for people that the other side has been silent for too long; nothing follows from it. */
export function noteDoubt(journal: Pick<Journal, 'append'>, message: string, log: Log): void {
  journal
    .append('IN_DOUBT', { message })
    .catch((error) => log.warn({ err: error }, 'the doubt could not be written'));
}

/** Why the journal of a migration cannot be used, or how using it failed. */
export function doubtOfJournal(file: JournalFile, error?: unknown): MigrationError {
  if (error instanceof MigrationError) return error;
  const reason = file.health === 'foreign' ? 'STATE_FOREIGN' : 'JOURNAL_CORRUPT';
  const what = file.problem ?? (error === undefined ? 'of no use' : asReasoned(error).message);
  return new MigrationError(
    error === undefined ? reason : 'JOURNAL_FAILED',
    `The journal ${file.path} is ${what}.`,
    { cause: error, facts: { path: file.path, migration_id: file.migrationId } },
  );
}

import { basename, dirname } from 'node:path';
import { type LogOptions, readLog } from '../util/append-log.js';
import {
  compareBindings,
  devicesComparable,
  difference,
  type StateBinding,
} from '../util/binding.js';
import type { FileIdentity } from '../util/log-files.js';
import type { LogRecord, LogTail } from '../util/log-format.js';
import type { Side } from '../util/reasoned-error.js';
import {
  bindingOf,
  entriesOf,
  headerOf,
  type JournalEntry,
  type JournalHeader,
} from './journal.js';

/**
 * Whether a journal can be trusted. `sound`: all of it, a torn tail aside. `corrupt`: a part of it
 * cannot be read, so that what it said last is not known. `foreign`: it was written on another host
 * or in another place, and may be an old copy.
 */
export type JournalHealth = 'sound' | 'corrupt' | 'foreign';

/** Which journal it is by its path, known also where its header cannot be read. */
interface JournalIds {
  readonly domainUuid: string;
  readonly migrationId: string;
  readonly side: Side;
}

/** What was read of one journal. */
export interface JournalFile extends JournalIds {
  readonly path: string;
  readonly header: JournalHeader | undefined;
  /** What is readable, in order. */
  readonly entries: readonly JournalEntry[];
  readonly health: JournalHealth;
  readonly tail: LogTail;
  /** What is wrong, for people; undefined where nothing is. A torn tail is told too. */
  readonly problem: string | undefined;
}

/** How to read a journal. */
export interface ReadJournalOptions extends Pick<LogOptions, 'files'> {
  /** Where the state is now; undefined to read a copy, which is then not called foreign. */
  readonly binding: StateBinding | undefined;
}

const FILE_NAME = /^([A-Za-z0-9][A-Za-z0-9-]{0,63})\.(source|destination)\.log$/;

/** True for the name of a file that is a journal. */
export function isJournalName(name: string): boolean {
  return FILE_NAME.test(name);
}

/** Reads one journal without changing it. What is wrong with it is in the answer. */
export async function readJournal(path: string, options: ReadJournalOptions): Promise<JournalFile> {
  try {
    return judgeJournal(path, await readLog(path, options), options.binding);
  } catch (error) {
    const problem = `corrupt: it cannot be read (${(error as Error).message})`;
    const unread = { header: undefined, entries: [], health: 'corrupt', tail: 'corrupt' } as const;
    return { ...idsOf(path), path, ...unread, problem };
  }
}

/** What of a log a verdict depends on. */
export interface JudgedLog extends FileIdentity {
  readonly records: readonly LogRecord[];
  readonly tail: LogTail;
  readonly problem?: string | undefined;
}

/** Tells whether what was read of a journal can be trusted here. */
export function judgeJournal(
  path: string,
  read: JudgedLog,
  binding: StateBinding | undefined,
): JournalFile {
  const header = headerOf(read.records[0]);
  const { tail } = read;
  const known = typeof header === 'string' ? undefined : header;
  // A copy may have any name.
  const { domainUuid, migrationId, side } = (binding === undefined && known) || idsOf(path);
  const answer = (health: JournalHealth, problem: string | undefined): JournalFile => ({
    path,
    domainUuid,
    migrationId,
    side,
    header: known,
    entries: entriesOf(read.records),
    health,
    tail,
    problem,
  });
  if (tail === 'corrupt') return answer('corrupt', read.problem);
  if (typeof header === 'string') return answer('corrupt', `corrupt: ${header}`);
  const differences = binding ? findDifferences(path, header, read, binding) : [];
  if (differences.length > 0) return answer('foreign', `foreign: ${differences.join('; ')}`);
  return answer('sound', read.problem);
}

function findDifferences(
  path: string,
  header: JournalHeader,
  read: JudgedLog,
  now: StateBinding,
): string[] {
  const then = bindingOf(read.records, header);
  const ids = idsOf(path);
  return [
    ...difference('the domain of the journal', header.domainUuid, ids.domainUuid),
    ...difference('its migration', header.migrationId, ids.migrationId),
    ...difference('its side', header.side, ids.side),
    ...compareBindings(then, now),
    ...difference('the inode of the journal', then.journalInode, read.inode),
    ...(devicesComparable(then, now)
      ? difference('the device of the journal', then.journalDevice, read.device)
      : []),
  ];
}

function idsOf(path: string): JournalIds {
  const [, migrationId = '', side] = FILE_NAME.exec(basename(path)) ?? [];
  return {
    domainUuid: basename(dirname(path)),
    migrationId,
    side: side === 'destination' ? 'destination' : 'source',
  };
}

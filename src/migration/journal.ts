import type { AppendLog, LogFields, LogRecord } from '../util/append-log.js';
import type { StateBinding } from '../util/binding.js';
import type { Clock } from '../util/clock.js';
import type { Side } from '../util/reasoned-error.js';
import { DURABLE_RECORDS, type JournalRecord } from './journal-records.js';

/** What whoever makes a journal says of its migration. */
export interface JournalSubject {
  readonly migrationId: string;
  readonly side: Side;
  readonly domainUuid: string;
  readonly domainName: string;
  readonly sourceHost: string;
  readonly destinationHost: string;
  /** The rank of the copy on this side. */
  readonly epoch: number;
  readonly generation: number;
  /** Counts the incoming QEMUs of the migration, from 1. */
  readonly attempt: number;
}

/** Where a journal was written, the file itself included. */
export interface JournalBinding extends StateBinding {
  readonly journalDevice: string;
  readonly journalInode: string;
}

/** The first record of a journal. */
export interface JournalHeader extends JournalSubject {
  readonly version: 1;
  /** A random UUID. Whoever meets another one knows that this journal is not the one it knew. */
  readonly journalId: string;
  /** The boot of the host in which the journal was made; empty if the kernel does not say. */
  readonly bootId: string;
  /** RFC 3339. */
  readonly createTime: string;
  readonly binding: JournalBinding;
  /** What the maker adds, such as the names of what it is about to make. */
  readonly details: LogFields;
}

/** One record after the header, with its details beside these fields. */
export interface JournalEntry extends LogFields {
  /** From 1; the header is 0. */
  readonly n: number;
  /** One of JOURNAL_RECORDS; a later version may write others. */
  readonly record: string;
  /** RFC 3339, by the wall clock: for people only. */
  readonly at: string;
}

/**
 * A record of its own kind, which `Journal.entries` leaves out: a person has said that the journal
 * may be used where it lies now.
 */
export const REBOUND = 'REBOUND';

/** An open journal of one side of one migration. Only the holder of the state's lock has one. */
export class Journal implements AsyncDisposable {
  readonly header: JournalHeader;
  readonly #log: AppendLog;
  readonly #clock: Clock;

  /** For Journals; others get theirs from there. */
  constructor(log: AppendLog, header: JournalHeader, clock: Clock) {
    this.#log = log;
    this.header = header;
    this.#clock = clock;
  }

  get path(): string {
    return this.#log.path;
  }

  /** What was appended, in order, without the header. */
  get entries(): readonly JournalEntry[] {
    return entriesOf(this.#log.records);
  }

  /** The last entry; undefined while there is only the header. */
  get last(): JournalEntry | undefined {
    return this.entries.at(-1);
  }

  /** True once an fdatasync has failed. Nothing may be done with the domain from then on. */
  get broken(): boolean {
    return this.#log.broken;
  }

  /**
   * Appends a record. Where it is one of DURABLE_RECORDS, it is on stable storage when this
   * resolves.
   *
   * @throws AppendError, which says whether the record may be there, and whether the journal is
   *   broken
   */
  async append(record: JournalRecord, details: LogFields = {}): Promise<JournalEntry> {
    const known = { record, at: this.#clock.date().toISOString() };
    const fields = Object.assign({ ...known }, details, known);
    return toEntry(await this.#log.append(fields, { durable: DURABLE_RECORDS.has(record) }));
  }

  close(): Promise<void> {
    return this.#log.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#log.close();
  }
}

/** The entries among the records of a log. */
export function entriesOf(records: readonly LogRecord[]): JournalEntry[] {
  return records
    .slice(1)
    .filter((entry) => entry['record'] !== REBOUND)
    .map(toEntry);
}

function toEntry({ synced, ...entry }: LogRecord): JournalEntry {
  return entry as LogFields as JournalEntry;
}

/** The first record of a log as a header, or in words what is wrong with it. */
export function headerOf(first: LogRecord | undefined): JournalHeader | string {
  if (first?.['record'] !== 'HEADER') return 'it has no header';
  const { n, synced, record, ...header } = first;
  if (header['version'] !== 1) {
    const version = JSON.stringify(header['version'])?.slice(0, 40);
    return `it is of version ${version}; this program reads version 1`;
  }
  const texts = ['journalId', 'migrationId', 'domainUuid', 'domainName', 'sourceHost'];
  const numbers = ['epoch', 'generation', 'attempt'];
  const sound =
    [...texts, 'destinationHost', 'bootId', 'createTime'].every(
      (key) => typeof header[key] === 'string',
    ) &&
    numbers.every((key) => Number.isSafeInteger(header[key])) &&
    (header['side'] === 'source' || header['side'] === 'destination') &&
    isGroup(header['details']) &&
    isBinding(header['binding']);
  return sound ? (header as unknown as JournalHeader) : 'its header lacks fields';
}

/** Where a journal was written, or where a person has last said that it belongs. */
export function bindingOf(records: readonly LogRecord[], header: JournalHeader): JournalBinding {
  const rebound = records.findLast((entry) => entry['record'] === REBOUND)?.['binding'];
  return isBinding(rebound) ? rebound : header.binding;
}

function isGroup(value: unknown): value is LogFields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isBinding(value: unknown): value is JournalBinding {
  if (!isGroup(value)) return false;
  const { device, inode, journalDevice, journalInode } = value as Partial<JournalBinding>;
  return [device, inode, journalDevice, journalInode].every(
    (number) => typeof number === 'string' && /^\d+$/.test(number),
  );
}

import { crc32 } from 'node:zlib';

/*
 * How records lie in a log file. One record is one line:
 *
 *   LLLLLLLL CCCCCCCC {...}\n
 *
 * the length of the JSON in bytes and its CRC-32, both as eight lower-case hex digits. Behind the
 * last record the file is zeros. docs/journal.md describes it for people.
 */

/** What the writer of a record says. */
export type LogFields = Readonly<Record<string, unknown>>;

/** A record as it lies in the file. */
export interface LogRecord extends LogFields {
  /** The records are numbered from 0 without a gap. */
  readonly n: number;
  /** How many records were known to be on stable storage when this one was written. */
  readonly synced: number;
}

/**
 * What lies behind the last whole record. `clean`: zeros or nothing. `torn`: the rest of a write
 * that a crash or a power loss cut off. `corrupt`: something that no interrupted write leaves.
 */
export type LogTail = 'clean' | 'torn' | 'corrupt';

/** What is readable of a log. */
export interface ParsedLog {
  readonly records: readonly LogRecord[];
  readonly tail: LogTail;
  /** Where the next record belongs, in bytes. */
  readonly endBytes: number;
  /** Where a tail is not clean: what is there, and where. */
  readonly problem: string | undefined;
}

const HEAD_BYTES = 18;
const HEAD = /^([0-9a-f]{8}) ([0-9a-f]{8}) $/;
/** How much of a line is there when a write was cut off within its head. */
const HEAD_PART = /^[0-9a-f]{0,8}$|^[0-9a-f]{8} [0-9a-f]{0,8}$|^[0-9a-f]{8} [0-9a-f]{8} \{?$/;
const NEWLINE = 0x0a;
const SPACE = 0x20;
/** The least unit that storage writes whole. A hole that a power loss leaves ends at one. */
const SECTOR_BYTES = 512;

/** The line of one record, and the record as whoever reads that line gets it. */
export function encodeRecord(
  fields: LogFields,
  n: number,
  synced: number,
): { readonly line: Buffer; readonly record: LogRecord } {
  const text = JSON.stringify(Object.assign({ n, synced }, fields, { n, synced }));
  const json = Buffer.from(text);
  const head = `${hex(json.length)} ${hex(crc32(json))} `;
  const line = Buffer.concat([Buffer.from(head), json, Buffer.of(NEWLINE)]);
  return { line, record: JSON.parse(text) as LogRecord };
}

/** Reads the records of a log from the start, up to the first place that is not a record. */
export function parseLog(data: Buffer): ParsedLog {
  const records: LogRecord[] = [];
  let at = 0;
  for (let line = readLine(data, at); line; line = readLine(data, at)) {
    if (line.record.n !== records.length) {
      const problem = `corrupt: record ${line.record.n} at byte ${at} should be ${records.length}`;
      return { records, tail: 'corrupt', endBytes: at, problem };
    }
    records.push(line.record);
    at = line.endBytes;
  }
  if (isZero(data, at)) return { records, tail: 'clean', endBytes: at, problem: undefined };
  const damage = findDamage(data, at, records.length);
  const where = `record ${records.length} at byte ${at}`;
  return damage === undefined
    ? { records, tail: 'torn', endBytes: at, problem: `torn: ${where} was not written to its end` }
    : { records, tail: 'corrupt', endBytes: at, problem: `corrupt: ${where} ${damage}` };
}

interface Line {
  readonly record: LogRecord;
  readonly endBytes: number;
}

/** Reads the record that begins at a byte, if a whole and valid one does. */
function readLine(data: Buffer, at: number): Line | undefined {
  const end = lineEnd(data, at);
  if (end === undefined || data[end] !== NEWLINE) return undefined;
  const json = data.subarray(at + HEAD_BYTES, end);
  if (data.toString('latin1', at + 9, at + 17) !== hex(crc32(json))) return undefined;
  const record = asRecord(json.toString('utf8'));
  return record && { record, endBytes: end + 1 };
}

/** Where the newline of a line belongs, if its head is whole and its JSON within the file. */
function lineEnd(data: Buffer, at: number): number | undefined {
  // Looking for the blanks first makes the search through a whole file quick.
  if (data[at + 8] !== SPACE || data[at + 17] !== SPACE) return undefined;
  const match = HEAD.exec(data.toString('latin1', at, at + HEAD_BYTES));
  const end = match ? at + HEAD_BYTES + Number.parseInt(match[1] ?? '', 16) : data.length;
  return end < data.length ? end : undefined;
}

function asRecord(json: string): LogRecord | undefined {
  try {
    const value: unknown = JSON.parse(json);
    if (typeof value !== 'object' || value === null) return undefined;
    const { n, synced } = value as Partial<LogRecord>;
    return Number.isSafeInteger(n) && Number.isSafeInteger(synced)
      ? (value as LogRecord)
      : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Tells what shows that the bytes from `at` on are not merely a write that was cut off; undefined
 * if they may be. A write that was cut off lacks its end, or lacks whole sectors: it has zeros
 * where something is missing, because the file was zeros before. And nothing that was written after
 * the record was durable can stand behind it.
 */
function findDamage(data: Buffer, at: number, count: number): string | undefined {
  for (let later = at + 1; later < data.length - HEAD_BYTES; later += 1) {
    const line = readLine(data, later);
    if (line && line.record.synced > count) {
      const { n } = line.record;
      return `is damaged: it was durable when record ${n} at byte ${later} was written`;
    }
  }
  const newline = data.indexOf(NEWLINE, at);
  const zero = data.indexOf(0, at);
  const end = zero < 0 ? data.length : zero;
  if (newline >= 0 && newline < end) return 'is damaged: it is a whole line with a wrong CRC';
  if (!HEAD_PART.test(data.toString('latin1', at, Math.min(end, at + HEAD_BYTES + 1)))) {
    return 'is damaged: it does not begin like a record';
  }
  const terminator = lineEnd(data, at);
  if (terminator !== undefined && terminator < end) return 'is damaged: it does not end as it says';
  for (let hole = end; hole >= 0; hole = data.indexOf(0, hole)) {
    while (hole < data.length && data[hole] === 0) hole += 1;
    if (hole < data.length && hole % SECTOR_BYTES !== 0) {
      return `is damaged: byte ${hole} follows zeros within one sector`;
    }
  }
  return undefined;
}

function isZero(data: Buffer, at: number): boolean {
  for (let index = at; index < data.length; index += 1) if (data[index] !== 0) return false;
  return true;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

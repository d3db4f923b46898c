import { basename, dirname, join } from 'node:path';
import { type FileIdentity, type LogFile, type LogFiles, nodeLogFiles } from './log-files.js';
import {
  encodeRecord,
  type LogFields,
  type LogRecord,
  type ParsedLog,
  parseLog,
} from './log-format.js';
import { ReasonedError } from './reasoned-error.js';

export type { LogFields, LogRecord } from './log-format.js';

/** What may be said of a log besides its path. */
export interface LogOptions {
  /** Default: the machine's own files. */
  readonly files?: LogFiles;
  /** By how many zero bytes the file grows at a time. Default: 16 KiB. */
  readonly stepBytes?: number;
}

/** What is readable of a log, and which file it is. */
export interface ReadLog extends ParsedLog, FileIdentity {}

/** How one record is to be appended. */
export interface AppendOptions {
  /** Whether the record must be on stable storage before the promise resolves. */
  readonly durable: boolean;
}

const STEP_BYTES = 16 * 1024;

/**
 * A record was not appended. `unwritten`: it is not in the log as far as anybody knows; but after a
 * crash it may turn up, if the operating system took more than it said, so that whoever then acts
 * otherwise must write that durably first. `unknown`: it may or may not be on stable storage.
 */
export class AppendError extends ReasonedError {
  readonly outcome: 'unwritten' | 'unknown';
  /**
   * True once the storage has failed to keep what it was given: the log takes no more records, for
   * ever.
   */
  readonly broken: boolean;

  constructor(path: string, outcome: 'unwritten' | 'unknown', broken: boolean, cause: unknown) {
    const state = broken ? 'takes no more records' : 'took no record';
    super('JOURNAL_FAILED', `The journal ${path} ${state}: ${textOf(cause)}.`, {
      cause,
      facts: { path, outcome },
    });
    this.outcome = outcome;
    this.broken = broken;
  }
}

/**
 * Reads a log without changing it.
 *
 * @throws the error of the operating system
 */
export async function readLog(path: string, options: LogOptions = {}): Promise<ReadLog> {
  const file = await (options.files ?? nodeLogFiles).open(path, 'read');
  try {
    return await readFile(file);
  } finally {
    await file.close();
  }
}

/**
 * An append-only file of JSON records, each checked by a CRC. It is filled with zeros beforehand,
 * so that making a record durable writes data and nothing else. One writer at a time: the caller
 * holds a lock.
 */
export class AppendLog implements AsyncDisposable {
  readonly path: string;
  readonly identity: FileIdentity;
  readonly #file: LogFile;
  readonly #stepBytes: number;
  readonly #records: LogRecord[];
  #synced: number;
  #endBytes: number;
  #sizeBytes: number;
  /** How many bytes behind the end may hold something of a write that did not finish. */
  #remainsBytes: number;
  #broken: unknown;
  #closed = false;
  #queue: Promise<unknown> = Promise.resolve();

  private constructor(path: string, file: LogFile, read: OpenLog, stepBytes: number) {
    this.path = path;
    this.identity = { device: read.device, inode: read.inode };
    this.#file = file;
    this.#stepBytes = stepBytes;
    this.#records = [...read.records];
    this.#synced = read.records.length;
    this.#endBytes = read.endBytes;
    this.#sizeBytes = read.sizeBytes;
    this.#remainsBytes = read.tail === 'clean' ? 0 : read.sizeBytes - read.endBytes;
  }

  /**
   * Makes a log with its first record, durably, name included: it is there whole or not at all. The
   * first record may depend on which file it will be in.
   *
   * @throws the error of the operating system; `EEXIST` if there is a file of this name
   */
  static async create(
    path: string,
    first: LogFields | ((identity: FileIdentity) => LogFields),
    options: LogOptions = {},
  ): Promise<AppendLog> {
    const { files = nodeLogFiles, stepBytes = STEP_BYTES } = options;
    const temporary = temporaryOf(path);
    // What an earlier life did not finish.
    await files.unlink(temporary).catch(unlessMissing);
    const file = await files.open(temporary, 'create');
    let linked = false;
    try {
      const identity = await file.stat();
      const { line } = encodeRecord(typeof first === 'function' ? first(identity) : first, 0, 0);
      const sizeBytes = roundUp(line.length, stepBytes);
      await writeAll(file, Buffer.concat([line, Buffer.alloc(sizeBytes - line.length)]), 0);
      await file.sync();
      await files.link(temporary, path);
      linked = true;
      await files.unlink(temporary);
      await files.syncDirectory(dirname(path));
      return new AppendLog(path, file, { ...parseLog(line), ...identity, sizeBytes }, stepBytes);
    } catch (error) {
      await file.close().catch(() => undefined);
      await files.unlink(temporary).catch(() => undefined);
      if (linked) await files.unlink(path).catch(() => undefined);
      throw error;
    }
  }

  /**
   * Opens a log to append to. What was read is made durable before this resolves: an earlier life
   * may have ended between a write and its fdatasync, or have seen that fail, after which the
   * kernel may show what storage has not kept.
   *
   * @throws ReasonedError `JOURNAL_CORRUPT`, or `JOURNAL_FAILED`, or the error of the operating
   *   system
   */
  static async open(path: string, options: LogOptions = {}): Promise<AppendLog> {
    const { files = nodeLogFiles, stepBytes = STEP_BYTES } = options;
    const file = await files.open(path, 'append');
    try {
      const read = await readFile(file);
      if (read.tail === 'corrupt') {
        throw new ReasonedError('JOURNAL_CORRUPT', `The journal ${path} is ${read.problem}.`, {
          facts: { path },
        });
      }
      await writeAll(file, read.data.subarray(0, read.endBytes), 0).catch(fail(path, 'unwritten'));
      await file.datasync().catch(fail(path, 'unknown'));
      return new AppendLog(path, file, read, stepBytes);
    } catch (error) {
      await file.close().catch(() => undefined);
      throw error;
    }
  }

  /** All records, in order. */
  get records(): readonly LogRecord[] {
    return this.#records;
  }

  /** True once an fdatasync has failed: nothing will be appended any more. */
  get broken(): boolean {
    return this.#broken !== undefined;
  }

  /**
   * Appends one record, after all that were asked for before, and answers it as it lies in the log.
   *
   * @throws AppendError
   */
  append(fields: LogFields, options: AppendOptions): Promise<LogRecord> {
    const appended = this.#queue.then(() => this.#append(fields, options));
    this.#queue = appended.catch(() => undefined);
    return appended;
  }

  /** Closes the file after everything that was asked for. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#queue;
    await this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #append(fields: LogFields, { durable }: AppendOptions): Promise<LogRecord> {
    if (this.#broken !== undefined) {
      throw new AppendError(this.path, 'unwritten', true, this.#broken);
    }
    if (this.#closed) throw new AppendError(this.path, 'unwritten', false, 'it is closed');
    const n = this.#records.length;
    const { line, record } = encodeRecord(fields, n, this.#synced);
    await this.#makeRoom(line.length);
    try {
      await writeAll(this.#file, line, this.#endBytes);
    } catch (cause) {
      this.#remainsBytes = line.length;
      throw new AppendError(this.path, 'unwritten', false, cause);
    }
    if (durable) await this.#datasync('unknown');
    this.#endBytes += line.length;
    this.#records.push(record);
    if (durable) this.#synced = n + 1;
    return record;
  }

  /** Leaves nothing but zeros where the line will be. */
  async #makeRoom(lengthBytes: number): Promise<void> {
    const neededBytes = this.#endBytes + lengthBytes;
    try {
      if (this.#remainsBytes > 0) {
        await writeAll(this.#file, Buffer.alloc(this.#remainsBytes), this.#endBytes);
      }
      if (neededBytes > this.#sizeBytes) {
        const sizeBytes = roundUp(neededBytes, this.#stepBytes);
        await writeAll(this.#file, Buffer.alloc(sizeBytes - this.#sizeBytes), this.#sizeBytes);
      }
      const next = await this.#file.read(this.#endBytes, lengthBytes);
      if (next.some((byte) => byte !== 0)) throw new Error('somebody else has written to it');
    } catch (cause) {
      throw new AppendError(this.path, 'unwritten', false, cause);
    }
    if (this.#remainsBytes === 0 && neededBytes <= this.#sizeBytes) return;
    // Before the line is written, so that no power loss can mix it with what was there before.
    await this.#datasync('unwritten');
    this.#remainsBytes = 0;
    this.#sizeBytes = Math.max(this.#sizeBytes, roundUp(neededBytes, this.#stepBytes));
  }

  async #datasync(outcome: 'unwritten' | 'unknown'): Promise<void> {
    try {
      await this.#file.datasync();
    } catch (cause) {
      // The kernel may have dropped the data and call it clean: a second try would prove nothing.
      this.#broken = cause ?? 'fdatasync failed';
      throw new AppendError(this.path, outcome, true, cause);
    }
  }
}

/** The name under which a log is made; whoever lists a folder of logs passes over it. */
export function temporaryOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.new`);
}

interface OpenLog extends ReadLog {
  readonly sizeBytes: number;
}

async function readFile(file: LogFile): Promise<OpenLog & { readonly data: Buffer }> {
  const identity = await file.stat();
  const data = await file.read(0, identity.sizeBytes);
  return { ...parseLog(data), ...identity, data };
}

async function writeAll(file: LogFile, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const taken = await file.write(bytes.subarray(done), position + done);
    if (taken <= 0) throw new Error('the file takes no more bytes');
    done += taken;
  }
}

function fail(path: string, outcome: 'unwritten' | 'unknown') {
  return (cause: unknown): never => {
    throw new AppendError(path, outcome, true, cause);
  };
}

function unlessMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}

function roundUp(bytes: number, stepBytes: number): number {
  return Math.ceil(bytes / stepBytes) * stepBytes;
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

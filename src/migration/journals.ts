import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AppendLog } from '../util/append-log.js';
import type { StateBinding } from '../util/binding.js';
import { type Clock, systemClock } from '../util/clock.js';
import { type FileIdentity, type LogFiles, nodeLogFiles } from '../util/log-files.js';
import type { LogFields } from '../util/log-format.js';
import type { Side } from '../util/reasoned-error.js';
import { MigrationError } from './errors.js';
import {
  Journal,
  type JournalBinding,
  type JournalHeader,
  type JournalSubject,
  REBOUND,
} from './journal.js';
import { isJournalName, type JournalFile, judgeJournal, readJournal } from './journal-file.js';

export type { JournalFile } from './journal-file.js';

/** What the journals of a host need. */
export interface JournalsOptions {
  /** `<state>/journal`; made when it is needed. */
  readonly folder: string;
  /** Where the state is now. */
  readonly binding: StateBinding;
  readonly clock?: Clock;
  /** Default: the machine's own files. */
  readonly files?: LogFiles;
}

/** Ids become parts of paths, and some of them come from another host. */
const ID = /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/;

/** The journals of a host: `<folder>/<domain uuid>/<migration id>.<side>.log`. */
export class Journals {
  readonly #folder: string;
  readonly #binding: StateBinding;
  readonly #clock: Clock;
  readonly #files: LogFiles;

  constructor({ folder, binding, clock = systemClock, files = nodeLogFiles }: JournalsOptions) {
    this.#folder = folder;
    this.#binding = binding;
    this.#clock = clock;
    this.#files = files;
  }

  /** Where the journal of a migration lies. */
  pathOf(domainUuid: string, migrationId: string, side: Side): string {
    for (const id of [domainUuid, migrationId]) {
      if (!ID.test(id)) throw new MigrationError('REQUEST_INVALID', `"${id}" is not an id.`);
    }
    return join(this.#folder, domainUuid, `${migrationId}.${side}.log`);
  }

  /**
   * Makes the journal of one side of a migration, durably, the folders included.
   *
   * @throws MigrationError `MIGRATION_EXISTS`, `JOURNAL_FAILED`
   */
  async create(subject: JournalSubject, details: LogFields = {}): Promise<Journal> {
    const path = this.pathOf(subject.domainUuid, subject.migrationId, subject.side);
    let header: JournalHeader | undefined;
    const first = (file: FileIdentity) => {
      header = this.#headerFor(subject, details, file);
      return { record: 'HEADER', ...header };
    };
    try {
      await this.#makeFolders(dirname(path));
      const log = await AppendLog.create(path, first, { files: this.#files });
      return new Journal(log, header as unknown as JournalHeader, this.#clock);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code === 'EEXIST') {
        throw new MigrationError('MIGRATION_EXISTS', `There is a journal ${path} already.`, {
          cause,
        });
      }
      throw new MigrationError('JOURNAL_FAILED', `The journal ${path} was not made: ${message}.`, {
        cause,
        facts: { path },
      });
    }
  }

  /**
   * Opens a journal to append to it; what was read of it is durable then.
   *
   * @throws ReasonedError `JOURNAL_CORRUPT`, `STATE_FOREIGN`, `JOURNAL_FAILED`, or the error of the
   *   operating system
   */
  async open(path: string): Promise<Journal> {
    const log = await AppendLog.open(path, { files: this.#files });
    try {
      const judged = judgeJournal(
        path,
        { ...log.identity, records: log.records, tail: 'clean' },
        this.#binding,
      );
      if (judged.health === 'sound' && judged.header) {
        return new Journal(log, judged.header, this.#clock);
      }
      const reason = judged.health === 'foreign' ? 'STATE_FOREIGN' : 'JOURNAL_CORRUPT';
      throw new MigrationError(reason, `The journal ${path} is ${judged.problem}.`, {
        facts: { path },
      });
    } catch (error) {
      await log.close();
      throw error;
    }
  }

  /** Reads one journal without changing it. What is wrong with it is in the answer. */
  read(path: string): Promise<JournalFile> {
    return readJournal(path, { binding: this.#binding, files: this.#files });
  }

  /** Reads every journal without changing any, ordered by path. */
  async readAll(): Promise<JournalFile[]> {
    const folders = (await list(this.#folder)).filter((entry) => entry.isDirectory());
    const paths: string[] = [];
    for (const { name } of folders) {
      const entries = await list(join(this.#folder, name));
      const journals = entries.filter((entry) => isJournalName(entry.name));
      paths.push(...journals.map((entry) => join(this.#folder, name, entry.name)));
    }
    const journals: JournalFile[] = [];
    for (const path of paths.sort()) journals.push(await this.read(path));
    return journals;
  }

  /** Removes a journal durably, and the domain's folder with the last one. Twice is harmless. */
  async remove(path: string): Promise<void> {
    const folder = dirname(path);
    try {
      await this.#files.unlink(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      return;
    }
    await this.#files.syncDirectory(folder);
    // Another journal of the domain keeps its folder.
    const removed = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (removed) await this.#files.syncDirectory(this.#folder);
  }

  /**
   * Writes into a foreign journal that it belongs where it lies now, because a person has said so.
   *
   * @throws as `open`, except that it may be foreign
   */
  async rebind(path: string): Promise<void> {
    await using log = await AppendLog.open(path, { files: this.#files });
    const binding = this.#bindingFor(log.identity);
    const at = this.#clock.date().toISOString();
    await log.append({ record: REBOUND, at, binding }, { durable: true });
  }

  #headerFor(subject: JournalSubject, details: LogFields, file: FileIdentity): JournalHeader {
    return {
      version: 1,
      journalId: randomUUID(),
      migrationId: subject.migrationId,
      side: subject.side,
      domainUuid: subject.domainUuid,
      domainName: subject.domainName,
      sourceHost: subject.sourceHost,
      destinationHost: subject.destinationHost,
      epoch: subject.epoch,
      generation: subject.generation,
      attempt: subject.attempt,
      bootId: this.#binding.bootId ?? '',
      createTime: this.#clock.date().toISOString(),
      binding: this.#bindingFor(file),
      details,
    };
  }

  #bindingFor({ device, inode }: FileIdentity): JournalBinding {
    return { ...this.#binding, journalDevice: device, journalInode: inode };
  }

  async #makeFolders(folder: string): Promise<void> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // Always: an earlier life may have made them and ended before they were durable.
    await this.#files.syncDirectory(this.#folder);
    await this.#files.syncDirectory(dirname(this.#folder));
  }
}

async function list(folder: string) {
  return await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
}

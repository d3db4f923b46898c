import { type LogFile, type LogFiles, nodeLogFiles } from '../../src/util/log-files.js';

/** The operations of a log that can be made to fail. */
export type FileOperation = keyof LogFile | keyof LogFiles;

/** How the next operation of a kind is to fail. */
export interface FileFault {
  /** The code of the operating system's error, such as `ENOSPC`. */
  readonly code: string;
  /** How many bytes of a write reach the file all the same. Default: none. */
  readonly takenBytes?: number;
  /** How often, in a row. Default: once. */
  readonly times?: number;
  /** How many operations of this kind work before it. Default: none. */
  readonly after?: number;
}

/** The machine's files, with faults that are put in on purpose, and a list of what was done. */
export class FaultyFiles implements LogFiles {
  /** Every operation, in order. */
  readonly done: FileOperation[] = [];
  readonly #faults = new Map<FileOperation, FileFault>();

  /** Makes the next operations of a kind fail. */
  fail(operation: FileOperation, fault: FileFault): void {
    this.#faults.set(operation, fault);
  }

  async open(path: string, mode: Parameters<LogFiles['open']>[1]): Promise<LogFile> {
    await this.#begin('open');
    const file = await nodeLogFiles.open(path, mode);
    const plain = <K extends 'stat' | 'datasync' | 'sync' | 'close'>(operation: K) =>
      (async () => {
        await this.#begin(operation);
        return await file[operation]();
      }) as LogFile[K];
    return {
      stat: plain('stat'),
      datasync: plain('datasync'),
      sync: plain('sync'),
      close: plain('close'),
      read: async (position, lengthBytes) => {
        await this.#begin('read');
        return await file.read(position, lengthBytes);
      },
      write: async (bytes, position) => {
        await this.#begin('write', async ({ takenBytes = 0 }) => {
          if (takenBytes > 0) await file.write(bytes.subarray(0, takenBytes), position);
        });
        return await file.write(bytes, position);
      },
    };
  }

  async link(from: string, to: string): Promise<void> {
    await this.#begin('link');
    await nodeLogFiles.link(from, to);
  }

  async unlink(path: string): Promise<void> {
    await this.#begin('unlink');
    await nodeLogFiles.unlink(path);
  }

  async syncDirectory(path: string): Promise<void> {
    await this.#begin('syncDirectory');
    await nodeLogFiles.syncDirectory(path);
  }

  async #begin(
    operation: FileOperation,
    before: (fault: FileFault) => Promise<void> = async () => {},
  ): Promise<void> {
    this.done.push(operation);
    const fault = this.#faults.get(operation);
    if (!fault) return;
    const { after = 0, times = 1, code } = fault;
    if (after > 0) {
      this.#faults.set(operation, { ...fault, after: after - 1 });
      return;
    }
    if (times > 1) this.#faults.set(operation, { ...fault, times: times - 1 });
    else this.#faults.delete(operation);
    await before(fault);
    throw Object.assign(new Error(`${code}: put in by the test, ${operation}`), { code });
  }
}

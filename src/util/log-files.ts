import { constants } from 'node:fs';
import { type FileHandle, link, open, unlink } from 'node:fs/promises';
import { syncDirectory } from './durable-file.js';

/** What tells one file of a machine from all others, as decimal numbers. */
export interface FileIdentity {
  readonly device: string;
  readonly inode: string;
}

/** An open log file. Every method rejects with the error of the operating system. */
export interface LogFile {
  /** Which file it is, and how long. */
  stat(): Promise<FileIdentity & { readonly sizeBytes: number }>;
  /** Reads up to `lengthBytes` from a position; less only where the file ends. */
  read(position: number, lengthBytes: number): Promise<Buffer>;
  /** Writes at a position and answers how many bytes it took, which may be fewer. */
  write(bytes: Uint8Array, position: number): Promise<number>;
  /** Makes the data durable, and the length where it has changed. */
  datasync(): Promise<void>;
  /** Makes the data and everything about the file durable. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** How a log is opened: `create` is exclusive and readable by the owner only. */
export type LogFileMode = 'create' | 'append' | 'read';

/** The file operations of a log. Tests bring ones that fail. */
export interface LogFiles {
  /** Opens a file; never through a symbolic link. */
  open(path: string, mode: LogFileMode): Promise<LogFile>;
  /** Gives a file a second name, unless that exists (`EEXIST`). */
  link(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Makes the names in a folder durable. */
  syncDirectory(path: string): Promise<void>;
}

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
const FLAGS: Readonly<Record<LogFileMode, number>> = {
  create: O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW,
  append: O_RDWR | O_NOFOLLOW,
  read: O_RDONLY | O_NOFOLLOW,
};

/** The machine's own files. */
export const nodeLogFiles: LogFiles = {
  open: async (path, mode) => new NodeLogFile(await open(path, FLAGS[mode], 0o600)),
  link,
  unlink,
  syncDirectory,
};

class NodeLogFile implements LogFile {
  readonly #handle: FileHandle;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async stat() {
    const { dev, ino, size } = await this.#handle.stat({ bigint: true });
    return { device: String(dev), inode: String(ino), sizeBytes: Number(size) };
  }

  async read(position: number, lengthBytes: number): Promise<Buffer> {
    const buffer = Buffer.alloc(lengthBytes);
    let length = 0;
    while (length < lengthBytes) {
      const rest = lengthBytes - length;
      const { bytesRead } = await this.#handle.read(buffer, length, rest, position + length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return buffer.subarray(0, length);
  }

  async write(bytes: Uint8Array, position: number): Promise<number> {
    const { bytesWritten } = await this.#handle.write(bytes, 0, bytes.length, position);
    return bytesWritten;
  }

  datasync(): Promise<void> {
    return this.#handle.datasync();
  }

  sync(): Promise<void> {
    return this.#handle.sync();
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

import { chown, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LaunchedProcess, Launcher, LaunchRequest } from '../../src/process/launcher.js';

/*
 * Power loss with a volatile cache. A QEMU that gets a guest has its block driver `blklogwrites`
 * right above the image file: it logs every write and every flush, in the format of Linux'
 * dm-log-writes. What a disk with a volatile cache holds after a power loss is what the log holds
 * up to its last flush; it may hold more, and nothing may rely on that.
 */

const MAGIC = 0x6a736677736872n;
const VERSION = 1n;
const ENTRY_BYTES = 32;
const FLUSH = 1n;
const FUA = 2n;
const DISCARD = 4n;
const MARK = 8n;
const ALL_FLAGS = FLUSH | FUA | DISCARD | MARK;

/** One operation of a write log. */
export interface LoggedOperation {
  /** What was written; undefined for a flush and for a discard. */
  readonly data: Buffer | undefined;
  readonly offsetBytes: number;
  /** Length of what was written or discarded; 0 for a flush. */
  readonly sizeBytes: number;
  /** True where all that was written before is safe now. */
  readonly flush: boolean;
  /** True where this very write is safe at once. */
  readonly fua: boolean;
}

/**
 * Reads the log of one QEMU, which has ended. Operations after the last flush are left out when
 * QEMU had not counted them yet: none of them is safe.
 *
 * @throws Error when the file is no such log or holds what cannot be understood.
 */
export async function readWriteLog(path: string): Promise<LoggedOperation[]> {
  const bytes = await readFile(path);
  // QEMU writes the first sector with the first flush.
  if (bytes.length < ENTRY_BYTES || bytes.readBigUInt64LE(0) === 0n) return [];
  if (bytes.readBigUInt64LE(0) !== MAGIC || bytes.readBigUInt64LE(8) !== VERSION) {
    throw new Error(`${path}: not a write log of version ${VERSION}`);
  }
  const count = Number(bytes.readBigUInt64LE(16));
  const sectorBytes = bytes.readUInt32LE(24);
  const operations: LoggedOperation[] = [];
  let at = sectorBytes;
  for (let i = 0; i < count; i++) {
    const sectors = Number(bytes.readBigUInt64LE(at + 8));
    const flags = bytes.readBigUInt64LE(at + 16);
    // A gap is an operation whose entry was not written when the power went.
    if ((flags & ~ALL_FLAGS) !== 0n || (sectors === 0 && flags === 0n)) {
      throw new Error(`${path}: entry ${i} of ${count} at byte ${at} makes no sense`);
    }
    const offsetBytes = Number(bytes.readBigUInt64LE(at)) * sectorBytes;
    const sizeBytes = sectors * sectorBytes;
    at += sectorBytes;
    // Everything but a discard is followed by its data, zeroes included.
    const hasData = sectors > 0 && (flags & DISCARD) === 0n;
    const data = hasData ? bytes.subarray(at, at + sizeBytes) : undefined;
    if (data !== undefined && data.length < sizeBytes) {
      throw new Error(`${path}: the data of entry ${i} of ${count} is cut off`);
    }
    at += data?.length ?? 0;
    const flush = (flags & FLUSH) !== 0n;
    operations.push({ data, offsetBytes, sizeBytes, flush, fua: (flags & FUA) !== 0n });
  }
  return operations;
}

/** What is sure to outlive a power loss after these operations. */
export function survivors(operations: readonly LoggedOperation[]): LoggedOperation[] {
  const lastFlush = operations.findLastIndex(({ flush }) => flush);
  return operations.filter(({ fua }, index) => index <= lastFlush || fua);
}

/** Makes the image that these operations leave of an empty one. */
export async function replay(
  operations: readonly LoggedOperation[],
  path: string,
  sizeBytes: number,
): Promise<void> {
  await writeFile(path, '');
  await using file = await open(path, 'r+');
  await file.truncate(sizeBytes);
  for (const { data, offsetBytes, sizeBytes: length } of operations) {
    const bytes = data ?? Buffer.alloc(length);
    if (length > 0) await file.write(bytes, 0, length, offsetBytes);
  }
}

/**
 * A launcher of a host that can lose its power: every QEMU that gets a guest logs what it writes to
 * its disks.
 */
export class PowerLossLauncher implements Launcher {
  readonly #launcher: Launcher;
  readonly #folder: string;
  readonly #launched: LaunchedProcess[] = [];

  /** @param folder where the logs go; there when a QEMU starts, and open to search for its user. */
  constructor(launcher: Launcher, folder: string) {
    this.#launcher = launcher;
    this.#folder = folder;
  }

  async launch(
    request: LaunchRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<LaunchedProcess> {
    if (!request.argv.includes('-incoming')) return await this.#launcher.launch(request, options);
    const { argv, logs } = withWriteLogs(request.argv, (node) => this.logOf(node));
    for (const log of logs) {
      await writeFile(log, '');
      if (request.user) await chown(log, request.user.uid, request.user.gid);
    }
    const launched = await this.#launcher.launch({ ...request, argv }, options);
    this.#launched.push(launched);
    return launched;
  }

  adopt(record: LaunchedProcess['record']): Promise<LaunchedProcess | undefined> {
    return this.#launcher.adopt(record);
  }

  /** The log of a block node that is an image file. */
  logOf(fileNode: string): string {
    return join(this.#folder, `${fileNode}.writes`);
  }

  /** Ends every QEMU that got a guest, without any warning; resolves when they are gone. */
  async losePower(): Promise<void> {
    for (const launched of this.#launched) launched.kill('SIGKILL');
    await Promise.all(this.#launched.map(({ exited }) => exited));
  }
}

/** Puts a log between every image's format and its file. */
function withWriteLogs(
  argv: readonly string[],
  logOf: (fileNode: string) => string,
): { argv: string[]; logs: string[] } {
  const logs: string[] = [];
  const changed = argv.flatMap((argument, index) => {
    if (argv[index - 1] !== '-blockdev') return [argument];
    const node = JSON.parse(argument) as Record<string, unknown>;
    const file = node['file'];
    if (typeof file !== 'string') return [argument];
    const log = logOf(file);
    logs.push(log);
    const logger = {
      driver: 'blklogwrites',
      'node-name': `logged-${file}`,
      file,
      log: { driver: 'file', filename: log },
      'log-sector-size': 512,
      cache: node['cache'],
      discard: node['discard'],
    };
    const above = { ...node, file: logger['node-name'] };
    return [JSON.stringify(logger), '-blockdev', JSON.stringify(above)];
  });
  return { argv: changed, logs };
}

import { chown, lstat, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { openForeign } from '../util/foreign-files.js';
import { SocketPathError } from './errors.js';
import type { ProcessUser } from './launcher.js';

/** Longest path of a unix socket, in bytes, without the ending zero. */
const SOCKET_PATH_LIMIT_BYTES = 107;

const LOG_TAIL_BYTES = 4096;

/** The paths of one QEMU's files, all in its private folder. */
export function qemuPaths(directory: string) {
  return {
    agentMonitor: join(directory, 'agent.sock'),
    rescueMonitor: join(directory, 'rescue.sock'),
    pidFile: join(directory, 'qemu.pid'),
    log: join(directory, 'qemu.log'),
  } as const;
}

/** Throws SocketPathError if a unix socket cannot have this path. */
export function assertSocketPath(path: string): void {
  const sizeBytes = Buffer.byteLength(path);
  if (sizeBytes <= SOCKET_PATH_LIMIT_BYTES) return;
  throw new SocketPathError(
    `The socket path ${path} has ${sizeBytes} bytes; the kernel takes at most ` +
      `${SOCKET_PATH_LIMIT_BYTES}. Choose a shorter run directory.`,
  );
}

/**
 * Makes a folder that only one user may enter, or checks one that is there.
 *
 * @param user The one that QEMU runs as. Default: that of this process.
 */
export async function makePrivate(directory: string, user?: ProcessUser): Promise<void> {
  const made = await mkdir(directory, { recursive: true, mode: 0o700 });
  if (made !== undefined && user) await chown(directory, user.uid, user.gid);
  const uid = user?.uid ?? process.getuid?.();
  const status = await lstat(directory);
  if (!status.isDirectory() || status.uid !== uid || (status.mode & 0o077) !== 0) {
    throw new Error(
      `${directory} must be user ${uid}'s with mode 0700, because it holds QEMU's monitors.`,
    );
  }
}

/** Returns the last 4 KiB of a file; nothing if it cannot be read. */
export async function readTail(path: string): Promise<string> {
  try {
    await using file = await openForeign(path);
    const { size } = await file.stat();
    const start = Math.max(0, size - LOG_TAIL_BYTES);
    const { buffer, bytesRead } = await file.read(
      Buffer.alloc(size - start),
      0,
      size - start,
      start,
    );
    return buffer.subarray(0, bytesRead).toString('utf8');
  } catch {
    return '';
  }
}

import { constants } from 'node:fs';
import { type FileHandle, lchown, lstat, open } from 'node:fs/promises';
import { dirname } from 'node:path';

/*
 * Files in folders that a QEMU may write to, as another user than the agent. What lies there may be
 * a link to any file of the host, or a pipe that is never written to.
 */

/** Opens a regular file to be read. Rejects with the system's error, or for anything else. */
export async function openForeign(path: string): Promise<FileHandle> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    if ((await file.stat()).isFile()) return file;
    throw new Error(`${path} is not a file.`);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Reads a file of at most so many bytes; a longer one is refused. */
export async function readForeign(path: string, limitBytes: number): Promise<string> {
  await using file = await openForeign(path);
  const buffer = Buffer.alloc(limitBytes + 1);
  const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
  if (bytesRead > limitBytes) throw new Error(`${path} has more than ${limitBytes} bytes.`);
  return buffer.subarray(0, bytesRead).toString('utf8');
}

/** Gives a file, never one that it links to, the owner of the folder that it is in. */
export async function inheritOwner(path: string): Promise<void> {
  const { uid, gid } = await lstat(dirname(path));
  const own = await lstat(path);
  if (own.uid !== uid || own.gid !== gid) await lchown(path, uid, gid);
}

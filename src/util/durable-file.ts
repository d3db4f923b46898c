import { constants } from 'node:fs';
import { open, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/**
 * Replaces a file so that after a power loss either the old or the new contents are there, whole.
 * Resolves when the new contents are on stable storage; the file is readable by its owner only.
 */
export async function writeDurably(path: string, contents: string): Promise<void> {
  const directory = dirname(path);
  const temporary = join(directory, `.${basename(path)}.new`);
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW, O_NONBLOCK } = constants;
  {
    // In a QEMU's folder the name may be taken by a pipe, which must not be waited for.
    const flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK;
    await using file = await open(temporary, flags, 0o600);
    await file.writeFile(contents);
    await file.sync();
  }
  await rename(temporary, path);
  await syncDirectory(directory);
}

/** Removes a file durably; does nothing if there is none. */
export async function removeDurably(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return;
  }
  await syncDirectory(dirname(path));
}

/** Makes the names in a folder durable: what was created, renamed or removed in it. */
export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await directory.sync();
}

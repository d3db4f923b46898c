import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import {
  type FileHandle,
  lstat,
  mkdir,
  open,
  readdir,
  realpath,
  rename,
  rmdir,
  unlink,
} from 'node:fs/promises';
import { basename, dirname } from 'node:path';

/** How often a folder is emptied; somebody may keep putting things in. Depth counts as well. */
const ROUNDS_LIMIT = 10_000;

/** The name of a file; as bytes where it may be no text, because others have named it. */
type Name = string | Buffer;

/**
 * A folder that is held open, so that everything in it is reached through this very folder,
 * whatever its path leads to meanwhile. Links in it are never followed: it may belong to a QEMU,
 * and the agent is root.
 */
export class HeldFolder implements AsyncDisposable {
  readonly #handle: FileHandle;

  private constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Rejects with the system's error: `ENOTDIR` for a link, as for all that is no folder. */
  static async open(path: string | Buffer): Promise<HeldFolder> {
    const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = constants;
    return new HeldFolder(await open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }

  /** Which folder it is, as long as it is there. */
  async identity(): Promise<string> {
    const { dev, ino } = await this.#handle.stat({ bigint: true });
    return `${dev}:${ino}`;
  }

  /** The path of something in it, good only while it is held, and only in this process. */
  path(name: string): string {
    return `/proc/self/fd/${this.#handle.fd}/${name}`;
  }

  /** A folder in it. */
  async folder(name: string): Promise<HeldFolder> {
    return await HeldFolder.open(this.path(name));
  }

  /** True where there is anything of this name. */
  async has(name: string): Promise<boolean> {
    return (await lstat(this.path(name)).catch(unlessMissing)) !== undefined;
  }

  /** Makes a folder in it, for the agent alone. */
  async makeFolder(name: string): Promise<void> {
    await mkdir(this.path(name), { mode: 0o700 });
  }

  /** Storage that the files in it take. Folders in it do not count. */
  async allocatedBytes(): Promise<number> {
    const sizes = (await this.#names()).map(async (name) => {
      const status = await lstat(this.#pathOf(name)).catch(unlessMissing);
      return status?.isFile() ? status.blocks * 512 : 0;
    });
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  }

  /** Removes a folder in it with everything, at any depth; nothing if there is none. */
  async removeFolder(name: string): Promise<void> {
    let folder: HeldFolder;
    try {
      folder = await this.folder(name);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return;
      // Something else of this name, a link perhaps, is no more than that.
      await unlink(this.path(name));
      return;
    }
    await using held = folder;
    await held.#empty();
    await rmdir(this.path(name));
  }

  /** Makes durable what was made, renamed or removed in it. */
  async sync(): Promise<void> {
    await this.#handle.sync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }

  /**
   * Folders within folders are brought up first, so that however deep they are, one is held at a
   * time.
   */
  async #empty(): Promise<void> {
    for (let round = 0; round < ROUNDS_LIMIT; round += 1) {
      const names = await this.#names();
      if (names.length === 0) return;
      for (const name of names) {
        const path = this.#pathOf(name);
        if (await unlinkUnlessFolder(path)) continue;
        {
          await using inner = await HeldFolder.open(path);
          for (const below of await inner.#names()) {
            const belowPath = inner.#pathOf(below);
            if (await unlinkUnlessFolder(belowPath)) continue;
            await rename(belowPath, this.path(`.removed-${randomUUID()}`));
          }
        }
        await rmdir(path);
      }
    }
  }

  async #names(): Promise<Buffer[]> {
    return await readdir(this.path('.'), { encoding: 'buffer' });
  }

  #pathOf(name: Name): Buffer {
    return Buffer.concat([Buffer.from(this.path('')), Buffer.from(name as Buffer)]);
  }
}

/**
 * Removes a folder with everything. Both it and the one that it is in may belong to a QEMU, those
 * above must not.
 * Nothing happens if there is none.
 */
export async function removeFolder(path: string): Promise<void> {
  try {
    await using parent = await HeldFolder.open(await realpath(dirname(path)));
    await parent.removeFolder(basename(path));
  } catch (error) {
    unlessMissing(error);
  }
}

/** False where it is a folder, which has to be emptied first. */
async function unlinkUnlessFolder(path: Buffer): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return true;
    if (codeOf(error) === 'EISDIR' || codeOf(error) === 'EPERM') return false;
    throw error;
  }
}

function unlessMissing(error: unknown): undefined {
  if (codeOf(error) === 'ENOENT') return undefined;
  throw error;
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

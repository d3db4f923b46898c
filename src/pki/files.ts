import { constants } from 'node:fs';
import { chmod, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { syncDirectory } from '../util/durable-file.js';
import { ReasonedError } from '../util/reasoned-error.js';

/** A file that is to be written. */
export interface FileContents {
  readonly path: string;
  readonly contents: string;
  /** Permission bits. */
  readonly mode: number;
}

/** Permission bits of what everybody may read. */
export const PUBLIC = 0o644;
/** Permission bits of a key. */
export const SECRET = 0o600;

/** Permission bits that let others change a folder, or change or read a file. */
const OTHERS_WRITE = 0o022;

/**
 * Makes a folder that only its owner may enter, or takes one that is there already.
 *
 * @throws ReasonedError `CONFIG_INVALID` where others may write in it
 */
export async function openDirectory(path: string): Promise<void> {
  await told(`The folder ${path} cannot be made`, async () => {
    const made = await mkdir(path, { recursive: true, mode: 0o700 });
    // The folders above it are left as they came; and a mask may have taken bits away.
    if (made !== undefined) await chmod(path, 0o700);
  });
  const { mode } = await told(`The folder ${path} cannot be read`, () => stat(path));
  if ((mode & OTHERS_WRITE) === 0) return;
  throw new ReasonedError('CONFIG_INVALID', `Others than its owner may write in ${path}.`, {
    hint: 'Choose a folder of your own, or take the right away with `chmod go-w`.',
  });
}

/**
 * Replaces files that belong together: all are written beside the old ones first, then they take
 * their places in the order given. Whoever reads meanwhile sees each file whole.
 *
 * @throws ReasonedError `CONFIG_INVALID` where one cannot be written; the old ones are still there
 */
export async function replaceFiles(files: readonly FileContents[]): Promise<void> {
  const steps = files.map((file) => ({ ...file, temporary: temporaryOf(file.path) }));
  try {
    for (const { path, temporary, contents, mode } of steps) {
      await told(`${path} cannot be written`, () => write(path, temporary, contents, mode));
    }
    for (const { path, temporary } of steps) {
      await told(`${path} cannot be replaced`, () => rename(temporary, path));
    }
  } finally {
    // What went wrong is told already.
    for (const { temporary } of steps) await rm(temporary, { force: true }).catch(() => {});
  }
  for (const directory of new Set(files.map(({ path }) => dirname(path)))) {
    await syncDirectory(directory);
  }
}

/**
 * Writes files that are not there yet, or none of them.
 *
 * @throws ReasonedError `CONFIG_INVALID`
 */
export async function createFiles(files: readonly FileContents[]): Promise<void> {
  const made: string[] = [];
  try {
    for (const { path, contents, mode } of files) {
      await told(`${path} cannot be made`, async () => {
        await using file = await open(path, 'wx', mode);
        made.push(path);
        await file.chmod(mode);
        await file.writeFile(contents);
        await file.sync();
      });
    }
  } catch (error) {
    for (const path of made) await rm(path, { force: true });
    throw error;
  }
  for (const directory of new Set(files.map(({ path }) => dirname(path)))) {
    await syncDirectory(directory);
  }
}

async function write(
  path: string,
  temporary: string,
  contents: string,
  mode: number,
): Promise<void> {
  // One that was left by a crash; O_EXCL follows no link that somebody else put there.
  await rm(temporary, { force: true });
  const { O_WRONLY, O_CREAT, O_EXCL } = constants;
  await using file = await open(temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
  await file.chmod(mode);
  // Root may renew the files of an agent that runs as somebody else.
  const old = await stat(path).catch(() => undefined);
  if (old && process.getuid?.() === 0) await file.chown(old.uid, old.gid);
  await file.writeFile(contents);
  await file.sync();
}

function temporaryOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.new`);
}

/**
 * Reads a file whole, or answers undefined where there is none.
 *
 * @throws ReasonedError `CONFIG_INVALID` where it cannot be read
 */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  return await told(`${path} cannot be read`, async () => {
    try {
      return await readFile(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  });
}

/** Tells what failed in our words, and why in those of the system. */
async function told<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new ReasonedError('CONFIG_INVALID', `${what}: ${code}.`, {
      cause,
      hint: 'Check the path, its owner and its mode.',
    });
  }
}

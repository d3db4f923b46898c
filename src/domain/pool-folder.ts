import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, realpath, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { HeldFolder } from '../util/held-folder.js';
import { DomainError } from './errors.js';

const ROOT = 0;
const GROUP_WRITES = 0o020;
const OTHERS_WRITE = 0o002;
const STICKY = 0o1000;

/**
 * Asserts that nobody but the agent and root can put something else in the place of a folder: it,
 * and every folder above it, is theirs and writable by nobody else. Above it, the sticky bit will
 * do as well, as on `/tmp`.
 *
 * @throws DomainError `DISK_TARGET_MISSING`, saying which folder it is and what to do
 */
export async function assertOwnFolder(
  path: string,
  options: { readonly anyOwner?: boolean } = {},
): Promise<void> {
  const real = await realpath(path);
  await assertOwn(real, options);
  for (let above = dirname(real); ; above = dirname(above)) {
    await assertOwn(above, { above: true });
    if (above === dirname(above)) return;
  }
}

async function assertOwn(
  path: string,
  { anyOwner = false, above = false }: { readonly anyOwner?: boolean; readonly above?: boolean },
): Promise<void> {
  const { uid, gid, mode } = await lstat(path);
  const own = process.getuid?.() ?? ROOT;
  const agent = own === ROOT ? 'root' : `the user ${own} or root`;
  if (!anyOwner && uid !== own && uid !== ROOT) {
    const fix = `\`chown ${own} ${path}\`, or use a folder elsewhere`;
    throw notOwn(
      path,
      `belongs to the user ${uid}, who could put something else there`,
      fix,
      agent,
    );
  }
  const sticky = above && (mode & STICKY) !== 0;
  const ownGroup = gid === ROOT || gid === process.getgid?.();
  const others = (mode & OTHERS_WRITE) !== 0 || ((mode & GROUP_WRITES) !== 0 && !ownGroup);
  if (!others || sticky) return;
  throw notOwn(path, 'is writable by others', `\`chmod go-w ${path}\``, agent);
}

function notOwn(path: string, what: string, fix: string, agent: string): DomainError {
  return new DomainError(
    'DISK_TARGET_MISSING',
    `The folder ${path} ${what}: images may only be where nobody but ${agent} writes.`,
    { hint: `Run ${fix}.`, facts: { path } },
  );
}

/** Tells whether files in a folder can be read and written past the host's page cache. */
export async function probeDirectIo(folder: HeldFolder): Promise<boolean> {
  const path = folder.path(`.probe-${randomBytes(6).toString('hex')}`);
  const { O_RDWR, O_CREAT, O_EXCL, O_DIRECT } = constants;
  try {
    await using file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT, 0o600);
    return (await file.stat()).isFile();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return false;
    throw error;
  } finally {
    await unlink(path).catch(() => undefined);
  }
}

/**
 * Names reach this layer checked already; a path that leaves the pool would be so bad that it is
 * checked again.
 */
export function assertPlainName(name: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$/.test(name)) return name;
  throw new DomainError('REQUEST_INVALID', `${JSON.stringify(name)} is not a plain file name.`);
}

/** The names of what a domain has left behind. */
export async function tombstonesOf(uuid: string, tombstones: HeldFolder): Promise<string[]> {
  const names = await readdir(tombstones.path('.'));
  return names.filter((name) => name.startsWith(`${uuid}-g`));
}

/** Storage that the files of a folder take; 0 where there is none. */
export async function bytesOf(parent: HeldFolder, name: string): Promise<number> {
  try {
    await using folder = await parent.folder(name);
    return await folder.allocatedBytes();
  } catch {
    return 0;
  }
}

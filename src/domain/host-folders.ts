import { constants } from 'node:fs';
import { chmod, mkdir, open, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ProcessUser } from '../process/launcher.js';
import { assertSearchable } from './access.js';
import { DomainError } from './errors.js';
import type { HostSettings } from './host-settings.js';

/** Its folders may be searched by everybody, and read by nobody but the agent. */
const SEARCHABLE = 0o711;

/**
 * Makes the folders of a host that are the agent's. Where QEMUs run as users of their own, the ways
 * to what is theirs are opened: to their sockets, serial files and images, and no further.
 *
 * @throws DomainError `CONFIG_INVALID` where a folder above cannot be searched, or this host has no
 * such users
 */
export async function openFolders(settings: HostSettings): Promise<void> {
  const { directories, pools, qemuUids } = settings;
  await mkdir(directories.run, { recursive: true, mode: 0o700 });
  await chmod(directories.run, qemuUids ? SEARCHABLE : 0o700);
  if (!qemuUids) return;
  await assertMapped(qemuUids);
  const domains = join(directories.state, 'domains');
  await mkdir(domains, { recursive: true, mode: 0o700 });
  for (const folder of [directories.state, domains]) await chmod(folder, SEARCHABLE);
  for (const { path, shared } of pools) {
    // A shared pool's server may have rules of its own; what cannot be read there is told then.
    const opened = openToSearch([path, join(path, 'images')]);
    await (shared ? opened.catch(() => undefined) : opened);
    if (!shared) await assertSearchable(path, 'The pool');
  }
  await assertSearchable(directories.run, 'The folder for sockets');
  await assertSearchable(directories.state, 'The state folder');
}

/**
 * Makes the file of a serial console and gives it to the user of its QEMU, who cannot put anything
 * else in its place: the folder stays the agent's.
 */
export async function giveSerialFile(path: string, { uid, gid }: ProcessUser): Promise<void> {
  const { O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  await using file = await open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600);
  await file.chown(uid, gid);
  await chmod(dirname(path), SEARCHABLE);
}

async function openToSearch(folders: readonly string[]): Promise<void> {
  for (const folder of folders) {
    const { mode } = await stat(folder);
    if ((mode & 0o011) !== 0o011) await chmod(folder, (mode & 0o777) | 0o011);
  }
}

/** In a container, only some users are there. */
async function assertMapped({ first, last }: { readonly first: number; readonly last: number }) {
  for (const map of ['uid_map', 'gid_map']) {
    const text = await readFile(`/proc/self/${map}`, 'latin1').catch(() => undefined);
    if (text === undefined) continue;
    const ranges = text.split('\n').map((line) => line.trim().split(/\s+/).map(Number));
    const whole = ranges.some(([start = 0, , count = 0]) => start <= first && last < start + count);
    if (whole) continue;
    throw new DomainError(
      'CONFIG_INVALID',
      `qemu.uids says ${first}-${last}, and the container that the agent runs in does not have all of these users and groups.`,
      { hint: 'Give the container more, or choose others; see /proc/self/uid_map.' },
    );
  }
}

import { realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DomainError } from './errors.js';

/*
 * What everybody on the host may read or search: a QEMU that runs as a user of its own has no other
 * rights to what several domains share.
 */

const READ = 0o004;
const SEARCH = 0o001;

/**
 * Asserts that everybody may read a file of the catalogue.
 *
 * @throws DomainError `MEDIA_MISSING` naming the file or folder that must be opened, and how
 */
export async function assertReadable(path: string, host: string): Promise<void> {
  const closed = await closedFolder(path);
  const mode = (await stat(path).catch(() => undefined))?.mode;
  // A file that is not there is missed by whoever needs it.
  if (mode === undefined || (closed === undefined && (mode & READ) !== 0)) return;
  const [what, command] =
    closed === undefined
      ? [`${path} cannot be read`, `chmod o+r ${path}`]
      : [`${path} cannot be read, because ${closed} cannot be searched`, `chmod o+x ${closed}`];
  throw new DomainError('MEDIA_MISSING', `${what} by the users that ${host} runs QEMU as.`, {
    hint: `Run \`${command}\`.`,
    facts: { path: closed ?? path },
  });
}

/**
 * Asserts that everybody may search a folder and all above it.
 *
 * @throws DomainError `CONFIG_INVALID` naming the folder that must be opened, and how
 */
export async function assertSearchable(folder: string, what: string): Promise<void> {
  const closed = await closedFolder(`${folder}/.`);
  if (closed === undefined) return;
  throw new DomainError(
    'CONFIG_INVALID',
    `${what} ${folder} cannot be reached by the users that QEMU runs as, because ${closed} cannot be searched by others.`,
    { hint: `Run \`chmod o+x ${closed}\`, or choose another folder.`, facts: { path: closed } },
  );
}

/** The topmost folder on the way to a path, as written and as it really is, that is closed. */
async function closedFolder(path: string): Promise<string | undefined> {
  const real = await realpath(dirname(path)).catch(() => '/');
  for (const folder of [...foldersOf(dirname(path)), ...foldersOf(real)]) {
    const mode = (await stat(folder).catch(() => undefined))?.mode;
    if (mode !== undefined && (mode & SEARCH) === 0) return folder;
  }
  return undefined;
}

/** A folder and all above it, from the top. */
function foldersOf(folder: string): readonly string[] {
  const above = dirname(folder);
  return above === folder ? [folder] : [...foldersOf(above), folder];
}

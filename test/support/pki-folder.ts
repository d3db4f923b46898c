import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type AuthoritySettings, initAuthority } from '../../src/pki/authority.js';

/** An empty folder that is removed when the test has finished. */
export async function pkiFolder(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-pki-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A CA of `drover.test` in a folder of its own, made as `drover pki init` makes it. */
export async function makeAuthorityFolder(
  change: Partial<AuthoritySettings> = {},
): Promise<{ readonly directory: string; readonly settings: AuthoritySettings }> {
  const directory = join(await pkiFolder(), 'ca');
  const settings = { directory, trustDomain: 'drover.test', days: 3650, ...change };
  await initAuthority(settings);
  return { directory, settings };
}

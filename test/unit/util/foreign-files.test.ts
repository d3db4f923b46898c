import { execFileSync } from 'node:child_process';
import { chown, lstat, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { inheritOwner, readForeign } from '../../../src/util/foreign-files.js';

let folder = '';
const path = () => join(folder, 'file');

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-foreign-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe('a file in a folder that somebody else may write to', () => {
  test('is read up to its limit', async () => {
    await writeFile(path(), '12345');
    expect(await readForeign(path(), 5)).toBe('12345');
    await expect(readForeign(path(), 4)).rejects.toThrow('more than 4 bytes');
  });

  test('is not read where it is a link', async () => {
    await symlink('/etc/passwd', path());
    await expect(readForeign(path(), 4096)).rejects.toMatchObject({ code: 'ELOOP' });
  });

  test('is not waited for where it is a pipe, and not read where it is a folder', async () => {
    execFileSync('/usr/bin/mkfifo', [path()]);
    await expect(readForeign(path(), 10)).rejects.toThrow('is not a file');
    await expect(readForeign(folder, 10)).rejects.toThrow('is not a file');
  });

  test.skipIf(process.getuid?.() !== 0)('gets the owner of its folder, a link itself', async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), 'drover-elsewhere-'));
    await chown(folder, 400_001, 400_002);
    await symlink(elsewhere, path());
    await inheritOwner(path());
    expect(await lstat(path())).toMatchObject({ uid: 400_001, gid: 400_002 });
    expect(await lstat(elsewhere)).toMatchObject({ uid: 0, gid: 0 });
    await rm(elsewhere, { recursive: true });
  });
});

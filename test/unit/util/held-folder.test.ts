import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HeldFolder, removeFolder } from '../../../src/util/held-folder.js';

describe('a held folder', () => {
  let root: string;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'drover-held-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it('stays the folder that it was, whatever its path leads to meanwhile', async () => {
    const path = join(root, 'own');
    const other = join(root, 'other');
    await mkdir(path);
    await mkdir(other);
    await using folder = await HeldFolder.open(path);
    await rm(path, { recursive: true });
    await symlink(other, path);
    await expect(folder.makeFolder('x')).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await readdir(other)).toEqual([]);
    await expect(HeldFolder.open(path)).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  it('is removed with everything, and nothing behind its links', async () => {
    const path = join(root, 'own');
    await mkdir(join(path, 'a', 'b', 'c'), { recursive: true });
    await mkdir(join(root, 'other'));
    await writeFile(join(root, 'other', 'kept'), '');
    for (const folder of ['.', 'a', 'a/b', 'a/b/c']) {
      await symlink(join(root, 'other'), join(path, folder, 'link'));
      await writeFile(join(path, folder, 'file'), '');
    }
    await removeFolder(path);
    await removeFolder(path);
    await removeFolder(join(root, 'absent', 'own'));
    expect(await readdir(root)).toEqual(['other']);
    expect(await readdir(join(root, 'other'))).toEqual(['kept']);
  });

  it('is removed although somebody keeps putting links into it', async () => {
    const path = join(root, 'own');
    await mkdir(join(root, 'other'));
    await writeFile(join(root, 'other', 'kept'), '');
    for (let round = 0; round < 20; round += 1) {
      await mkdir(join(path, 'inner'), { recursive: true });
      const state = { on: true };
      // As a QEMU would that was taken over: a folder becomes a link, and a folder again.
      const plant = (async () => {
        while (state.on) {
          await rm(join(path, 'inner'), { recursive: true, force: true }).catch(() => undefined);
          await symlink(join(root, 'other'), join(path, 'inner')).catch(() => undefined);
          await rm(join(path, 'inner'), { force: true }).catch(() => undefined);
          await mkdir(join(path, 'inner')).catch(() => undefined);
        }
      })();
      // It may find no end while others add to it; what matters is what it never touches.
      for (let attempt = 0; attempt < 5; attempt += 1)
        await removeFolder(path).catch(() => undefined);
      state.on = false;
      await plant;
      await removeFolder(path);
      expect(await readdir(join(root, 'other'))).toEqual(['kept']);
    }
  });
});

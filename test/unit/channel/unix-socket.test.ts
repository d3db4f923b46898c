import { chown, lstat, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { connectUnix, OneConnection } from '../../../src/channel/unix-socket.js';

const { signal } = new AbortController();
let folder = '';

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-socket-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe('a unix socket', () => {
  test('takes one connection, and its path has gone then', async () => {
    await using door = await OneConnection.listen(join(folder, 'door'));
    const socket = await connectUnix(door.path, { signal });
    const accepted = await door.accepted({ signal });
    accepted.write('hello');
    const [text] = await socket.take(1).toArray();
    expect(String(text)).toBe('hello');
    expect(await readdir(folder)).toEqual([]);
    socket.destroy();
    accepted.destroy();
  });

  test('is not connected to where a link leads to it', async () => {
    await using door = await OneConnection.listen(join(folder, 'door'));
    await symlink(door.path, join(folder, 'link'));
    await expect(connectUnix(join(folder, 'link'), { signal })).rejects.toThrow();
    await expect(connectUnix(join(folder, 'nothing'), { signal })).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });

  test.skipIf(process.getuid?.() !== 0)('is open to the owner of its folder', async () => {
    await mkdir(join(folder, 'own'));
    await chown(join(folder, 'own'), 400_001, 400_001);
    await using door = await OneConnection.listen(join(folder, 'own', 'door'));
    expect(await lstat(door.path)).toMatchObject({ uid: 400_001, gid: 400_001 });
  });
});

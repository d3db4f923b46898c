import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { giveSerialFile, openFolders } from '../../../src/domain/host-folders.js';
import type { HostSettings } from '../../../src/domain/host-settings.js';

const USERS = { first: 400_000, last: 400_099 };

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-folders-'));
  await chmod(folder, 0o711);
  await mkdir(join(folder, 'pool', 'images'), { recursive: true, mode: 0o700 });
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function open(qemuUids: HostSettings['qemuUids'], shared = false): Promise<void> {
  return openFolders({
    directories: { state: join(folder, 'state'), run: join(folder, 'run') },
    pools: [{ name: 'default', path: join(folder, 'pool'), shared }],
    qemuUids,
  } as unknown as HostSettings);
}

const modeOf = async (path: string) => (await stat(join(folder, path))).mode & 0o777;

describe('the folders of a host', () => {
  test('are open to nobody where all QEMUs run as the agent', async () => {
    await open(undefined);
    expect(await modeOf('run')).toBe(0o700);
    expect(await modeOf('pool')).toBe(0o700);
  });

  test('can be passed through, and not listed, by users of QEMUs', async () => {
    await open(USERS);
    for (const path of ['run', 'state', 'state/domains', 'pool', 'pool/images']) {
      expect(await modeOf(path), path).toBe(0o711);
    }
  });

  test('must not lie below a closed one, which is named with what to do', async () => {
    await chmod(folder, 0o700);
    await expect(open(USERS)).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringContaining(`because ${folder} cannot be searched by others`),
      hint: expect.stringContaining(`chmod o+x ${folder}`),
    });
  });

  test('must be of a host that has all these users', async () => {
    const map = await readFile('/proc/self/uid_map', 'latin1');
    const count = Number(map.trim().split(/\s+/)[2]);
    await expect(open({ first: 1000, last: count })).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringContaining('qemu.uids'),
    });
  });
});

describe.skipIf(process.getuid?.() !== 0)('the file of a serial console', () => {
  test('is made for the user of its QEMU, and what is in it stays', async () => {
    const path = join(folder, 'serial.log');
    for (const user of [
      { uid: 400_001, gid: 400_001 },
      { uid: 400_002, gid: 400_003 },
    ]) {
      await giveSerialFile(path, user);
      expect(await stat(path)).toMatchObject(user);
      await writeFile(path, 'a line', { flag: 'a' });
    }
    expect(await readFile(path, 'utf8')).toBe('a linea line');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  test('is not given away where it is a link', async () => {
    const secret = join(folder, 'secret');
    await writeFile(secret, '');
    await symlink(secret, join(folder, 'serial.log'));
    const user = { uid: 400_001, gid: 400_001 };
    await expect(giveSerialFile(join(folder, 'serial.log'), user)).rejects.toThrow();
    expect((await stat(secret)).uid).toBe(0);
  });
});

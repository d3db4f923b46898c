import {
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makePsk, PskFolder } from '../../../src/channel/psk.js';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'drover-psk-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test('every key is new and has 32 bytes', () => {
  const keys = Array.from({ length: 20 }, () => Buffer.from(makePsk('m1').key).toString('hex'));
  expect(new Set(keys).size).toBe(20);
  expect(keys[0]).toHaveLength(64);
});

test('the key file is as QEMU reads it, and nobody else can', async () => {
  const psk = makePsk('5f0c.1');
  await using folder = await PskFolder.write(directory, psk);
  const file = join(folder.path, 'keys.psk');
  expect(await readFile(file, 'utf8')).toBe(`5f0c.1:${Buffer.from(psk.key).toString('hex')}\n`);
  expect((await stat(folder.path)).mode & 0o777).toBe(0o700);
  expect((await stat(file)).mode & 0o777).toBe(0o600);
});

test('a key left by an earlier try is replaced, and removing leaves nothing', async () => {
  await PskFolder.write(directory, makePsk('old'));
  const folder = await PskFolder.write(directory, makePsk('new'));
  expect(await readFile(join(folder.path, 'keys.psk'), 'utf8')).toMatch(/^new:/);
  await folder.remove();
  await folder.remove();
  expect(await readdir(directory)).toEqual([]);
});

test.each(['a:b', 'a\nb', '#a', '', 'x'.repeat(65)])(
  'the identity %j is refused and nothing is written',
  async (identity) => {
    const psk = { ...makePsk('fine'), identity };
    await expect(PskFolder.write(directory, psk)).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    expect(await readdir(directory)).toEqual([]);
  },
);

test('a key of another length is refused', async () => {
  const psk = { identity: 'm1', key: new Uint8Array(16) };
  await expect(PskFolder.write(directory, psk)).rejects.toMatchObject({
    reason: 'REQUEST_INVALID',
  });
});

test('the parameters that QEMU looks for are there, so that it need not make them up', async () => {
  await using folder = await PskFolder.write(directory, makePsk('m1'));
  const pem = await readFile(join(folder.path, 'dh-params.pem'), 'utf8');
  const [, base64 = ''] =
    /^-----BEGIN DH PARAMETERS-----\n([^-]+)-----END DH PARAMETERS-----\n$/.exec(pem)!;
  const der = Buffer.from(base64, 'base64');
  // A sequence of 264 bytes that begins with an integer of 257: a prime of 2048 bits, then the
  // generator 2.
  expect(der.subarray(0, 9).toString('hex')).toBe('308201080282010100');
  expect(der.subarray(-3).toString('hex')).toBe('020102');
  expect(der).toHaveLength(268);
});

test.skipIf(process.getuid?.() !== 0)('the key is for the owner of the folder alone', async () => {
  await chown(directory, 400_001, 400_002);
  await using folder = await PskFolder.write(directory, makePsk('m1'));
  for (const path of [folder.path, join(folder.path, 'keys.psk')]) {
    expect(await stat(path)).toMatchObject({ uid: 400_001, gid: 400_002 });
  }
});

test('nothing is written or removed where a link has the name of the folder', async () => {
  const elsewhere = join(directory, 'elsewhere');
  await mkdir(elsewhere);
  await writeFile(join(elsewhere, 'keys.psk'), 'precious');
  await symlink(elsewhere, join(directory, 'psk'));
  await expect(PskFolder.write(directory, makePsk('m1'))).rejects.toThrow();
  expect(await readdir(elsewhere)).toEqual(['keys.psk']);
  expect(await readFile(join(elsewhere, 'keys.psk'), 'utf8')).toBe('precious');
});

import { chmod, chown, mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { HostSettings } from '../../../src/domain/host-settings.js';
import { QemuUsers } from '../../../src/domain/qemu-users.js';
import { parseDomainSpec } from '../../../src/spec/domain-spec.js';

const ONE = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0001';
const TWO = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0002';
const THREE = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0003';

const kvm = vi.hoisted(() => ({ mode: 0o600, gid: 0 }));
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const kvmOr = async (path: string) => (path === '/dev/kvm' ? kvm : await real.stat(path));
  return { ...real, stat: kvmOr };
});

let folder = '';
const warnings: string[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-users-'));
  for (const name of ['run', 'pool']) await mkdir(join(folder, name));
  await chmod(folder, 0o711);
  warnings.length = 0;
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function users(qemuUids: HostSettings['qemuUids'] = { first: 400_000, last: 400_002 }): QemuUsers {
  return new QemuUsers({
    host: 'here',
    directories: { state: join(folder, 'state'), run: join(folder, 'run') },
    pools: [{ name: 'default', path: join(folder, 'pool') }],
    log: { warn: (_fields: object, message: string) => warnings.push(message) },
    qemuUids,
  } as unknown as HostSettings);
}

function spec(uuid: string, disk: object = {}) {
  const disks = [{ id: 'root', sizeBytes: 1024 ** 2, ...disk }];
  return parseDomainSpec({
    name: 'web',
    uuid,
    memoryBytes: 64 * 1024 ** 2,
    accelerator: 'tcg',
    disks,
  });
}

async function owned(path: string, uid: number): Promise<void> {
  await mkdir(join(folder, path));
  await chown(join(folder, path), uid, uid);
}

const uidOf = async (pool: QemuUsers, uuid: string) => (await pool.hold(spec(uuid)))?.user.uid;

describe.skipIf(process.getuid?.() !== 0)('the user of a domain', () => {
  test('is the lowest that owns no folder and is promised to nobody', async () => {
    await owned(`run/${ONE}`, 400_000);
    const pool = users();
    const found = await Promise.all([pool.hold(spec(TWO)), pool.hold(spec(THREE))]);
    expect(found.map((held) => held?.user)).toEqual([
      { uid: 400_001, gid: 400_001 },
      { uid: 400_002, gid: 400_002 },
    ]);
  });

  test.each([
    ['a folder of a QEMU', `run/${ONE}`],
    ['a folder of a further QEMU', `run/${ONE}.2`],
    ['its images', `pool/${ONE}`],
  ])('stays the same as long as it owns %s', async (_what, path) => {
    await owned(path, 400_002);
    expect(await uidOf(users(), ONE)).toBe(400_002);
  });

  test('is another one where its images are owned by the user of another domain', async () => {
    await owned(`pool/${ONE}`, 400_000);
    await owned(`pool/${TWO}`, 400_000);
    expect(await uidOf(users(), ONE)).toBe(400_001);
  });

  test('is free again once it is not held and owns nothing', async () => {
    const pool = users({ first: 400_000, last: 400_000 });
    const first = await pool.hold(spec(ONE));
    const again = await pool.hold(spec(ONE));
    expect(again?.user).toEqual(first?.user);
    await expect(pool.hold(spec(TWO))).rejects.toMatchObject({
      reason: 'QEMU_START_FAILED',
      hint: expect.stringContaining('qemu.uids'),
    });
    first?.[Symbol.dispose]();
    await expect(pool.hold(spec(TWO))).rejects.toMatchObject({ reason: 'QEMU_START_FAILED' });
    again?.[Symbol.dispose]();
    expect(await uidOf(pool, TWO)).toBe(400_000);
  });

  test('owns its images, but nothing that a link among them leads to', async () => {
    const secret = join(folder, 'secret');
    await writeFile(secret, '');
    await mkdir(join(folder, 'pool', ONE));
    await writeFile(join(folder, 'pool', ONE, 'root.raw'), '');
    await symlink(secret, join(folder, 'pool', ONE, 'data.raw'));
    await users().giveImages(spec(ONE), { uid: 400_001, gid: 400_009 });
    const given = { uid: 400_001, gid: 400_009 };
    expect(await stat(join(folder, 'pool', ONE))).toMatchObject(given);
    expect(await stat(join(folder, 'pool', ONE, 'root.raw'))).toMatchObject(given);
    expect(await stat(secret)).toMatchObject({ uid: 0, gid: 0 });
  });

  test('is the agent itself where an image is in a shared pool, which is logged once', async () => {
    const pool = users();
    const disk = { shared: true };
    expect(await pool.hold(spec(ONE, disk))).toBeUndefined();
    expect(await pool.hold(spec(TWO, disk))).toBeUndefined();
    expect(warnings).toHaveLength(1);
  });

  test('is the agent itself where the agent has no users to give', async () => {
    const settings = { host: 'here', log: {} } as unknown as HostSettings;
    expect(await new QemuUsers(settings).hold(spec(ONE))).toBeUndefined();
  });

  test('may read only what everybody may read', async () => {
    const image = join(folder, 'pool', 'image.raw');
    await writeFile(image, '', { mode: 0o600 });
    const pool = users();
    const refused = (command: string) => ({
      reason: 'MEDIA_MISSING',
      message: expect.not.stringContaining('chmod'),
      hint: `Run \`${command}\`.`,
    });
    await expect(pool.assertReadable(spec(ONE), image)).rejects.toMatchObject(
      refused(`chmod o+r ${image}`),
    );
    await chmod(image, 0o644);
    await pool.assertReadable(spec(ONE), image);
    await chmod(join(folder, 'pool'), 0o700);
    await expect(pool.assertReadable(spec(ONE), image)).rejects.toMatchObject(
      refused(`chmod o+x ${join(folder, 'pool')}`),
    );
    await pool.assertReadable(spec(ONE, { shared: true }), image);
  });

  test.each([
    [0o660, 36, 36],
    [0o666, 0, undefined],
  ])('has the group of KVM where that is needed: mode %o of group %i', async (mode, gid, group) => {
    Object.assign(kvm, { mode, gid });
    expect(await users().groupFor({ ...spec(ONE), accelerator: 'kvm' })).toBe(group);
  });

  test('is told how to open KVM where it is only root that may', async () => {
    Object.assign(kvm, { mode: 0o660, gid: 0 });
    await expect(users().groupFor({ ...spec(ONE), accelerator: 'kvm' })).rejects.toMatchObject({
      reason: 'CPU_FEATURE_MISSING',
      message: expect.not.stringContaining('chgrp'),
      hint: 'Run `chgrp kvm /dev/kvm && chmod 0660 /dev/kvm`.',
    });
  });

  test('may read nothing through a link into a closed folder', async () => {
    await mkdir(join(folder, 'closed'), { mode: 0o700 });
    await writeFile(join(folder, 'closed', 'kernel'), '', { mode: 0o644 });
    await symlink(join(folder, 'closed'), join(folder, 'kernels'));
    await expect(
      users().assertReadable(spec(ONE), join(folder, 'kernels', 'kernel')),
    ).rejects.toMatchObject({ reason: 'MEDIA_MISSING', facts: { path: expect.any(String) } });
  });
});

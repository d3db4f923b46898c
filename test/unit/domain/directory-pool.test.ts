import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DirectoryPool } from '../../../src/domain/directory-pool.js';
import { roomFor } from '../../../src/domain/pools.js';
import { FakeImageTool } from '../../support/fake-qemu.js';

const MIB = 1024 ** 2;
const UUID = 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6';
const options = { signal: new AbortController().signal };

describe('a directory pool', () => {
  let path: string;
  let pool: DirectoryPool;
  const root = { uuid: UUID, diskId: 'root', format: 'raw', sizeBytes: 8 * MIB } as const;

  beforeEach(async () => {
    path = await mkdtemp(join(tmpdir(), 'drover-pool-'));
    pool = await DirectoryPool.open({ name: 'default', path, shared: false }, new FakeImageTool());
  });
  afterEach(async () => {
    await rm(path, { recursive: true });
  });

  it('is not made where its directory is not there', async () => {
    const settings = { name: 'nfs', path: join(path, 'unmounted'), shared: true };
    await expect(DirectoryPool.open(settings, new FakeImageTool())).rejects.toMatchObject({
      reason: 'DISK_TARGET_MISSING',
    });
  });

  it('makes thin images, each once, where nobody else can read them', async () => {
    await pool.addDomain(UUID);
    const raw = await pool.createImage(root, options);
    expect(raw).toEqual({ driver: 'file', path: join(path, UUID, 'root.raw'), format: 'raw' });
    const { size, mode } = await stat(raw.path);
    expect(size).toBe(8 * MIB);
    expect(mode & 0o777).toBe(0o600);
    expect(await pool.allocatedBytes(raw)).toBe(0);
    await pool.createImage({ ...root, diskId: 'data', format: 'qcow2' }, options);
    expect((await readdir(join(path, UUID))).sort()).toEqual(['data.qcow2', 'root.raw']);
    const again = { reason: 'DISK_IO_ERROR' };
    await expect(pool.createImage(root, options)).rejects.toMatchObject(again);
    await expect(pool.addDomain(UUID)).rejects.toMatchObject(again);
    await symlink('/etc/passwd', join(path, UUID, 'link.raw'));
    const linked = pool.createImage({ ...root, diskId: 'link' }, options);
    await expect(linked).rejects.toMatchObject(again);
  });

  it('copies an image of the catalogue and makes it larger', async () => {
    await writeFile(join(path, 'images', 'boot.raw'), Buffer.alloc(MIB, 7));
    const from = await pool.catalogueImage('boot.raw', 'raw', options);
    expect(from).toMatchObject({ sizeBytes: MIB, path: join(path, 'images', 'boot.raw') });
    await pool.addDomain(UUID);
    const copy = await pool.copyImage(root, from, options);
    expect((await stat(copy.path)).size).toBe(8 * MIB);
    expect(await pool.allocatedBytes(copy)).toBe(from.allocatedBytes);
  });

  it('has in its catalogue only plain files that are complete in themselves', async () => {
    await symlink('/etc/passwd', join(path, 'images', 'link.raw'));
    await mkdir(join(path, 'images', 'folder.raw'));
    for (const name of ['link.raw', 'folder.raw', 'absent.raw']) {
      await expect(pool.catalogueImage(name, 'raw', options)).rejects.toMatchObject({
        reason: 'MEDIA_MISSING',
        facts: { pool: 'default', image: name },
      });
    }
    await expect(pool.catalogueImage('../x', 'raw', options)).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    const overlay = new FakeImageTool();
    overlay.info = async () => ({
      virtualSizeBytes: MIB,
      allocatedBytes: 0,
      hasBackingFile: true,
      hasDataFile: false,
    });
    await writeFile(join(path, 'images', 'overlay.qcow2'), 'x');
    const other = await DirectoryPool.open({ name: 'default', path, shared: false }, overlay);
    await expect(other.catalogueImage('overlay.qcow2', 'qcow2', options)).rejects.toMatchObject({
      reason: 'MEDIA_MISSING',
      hint: expect.stringContaining('qemu-img convert'),
    });
  });

  it('promises no byte twice, and counts what images take of their promise once', async () => {
    const { availableBytes } = await pool.facts();
    const most = await pool.reserve(UUID, availableBytes - 64 * MIB);
    await expect(pool.reserve('other', 128 * MIB)).rejects.toMatchObject({
      reason: 'DISK_NO_SPACE',
      facts: { required_bytes: 128 * MIB, available_bytes: expect.any(Number) },
    });
    most.release();
    most.release();
    const fits = await pool.reserve(UUID, 16 * MIB);
    await pool.addDomain(UUID);
    const before = (await pool.facts()).availableBytes;
    await writeFile(join(path, UUID, 'root.raw'), Buffer.alloc(8 * MIB, 1), { flush: true });
    const after = (await pool.facts()).availableBytes;
    // Others write to this file system too; 8 MiB counted twice would be 16 MiB off.
    expect(Math.abs(after - before)).toBeLessThan(7 * MIB);
    fits.release();
    expect(roomFor(100 * MIB)).toBe(102 * MIB);
  });

  it('of two that ask at once, cannot satisfy both with the same room', async () => {
    const { availableBytes } = await pool.facts();
    const most = Math.floor(availableBytes * 0.9);
    const results = await Promise.allSettled([pool.reserve('a', most), pool.reserve('b', most)]);
    expect(results.filter(({ status }) => status === 'fulfilled').length).toBeLessThan(2);
  });

  it('says that it is missing where its directory has gone, or another one is in its place', async () => {
    const missing = { reason: 'DISK_TARGET_MISSING', facts: { pool: 'default' } };
    await rename(path, `${path}-gone`);
    await expect(pool.facts()).rejects.toMatchObject(missing);
    await mkdir(path);
    await expect(pool.facts()).rejects.toMatchObject(missing);
    await rm(path, { recursive: true });
    await rename(`${path}-gone`, path);
    expect((await pool.facts()).sizeBytes).toBeGreaterThan(0);
  });

  it('keeps one tombstone of a domain, the newest', async () => {
    for (const generation of [1, 3]) {
      await pool.addDomain(UUID);
      await writeFile(join(path, UUID, 'root.raw'), Buffer.alloc(MIB, 1));
      await pool.bury(UUID, generation);
      await pool.bury(UUID, generation);
      expect(await readdir(join(path, '.tombstones'))).toEqual([`${UUID}-g${generation}`]);
    }
    expect(await pool.hasDomain(UUID)).toBe(false);
    expect(await pool.tombstoneBytes(UUID)).toBe(MIB);
    await pool.removeTombstone(UUID);
    await pool.removeTombstone(UUID);
    expect(await pool.tombstoneBytes(UUID)).toBe(0);
  });

  it('reaches nothing outside by what a domain has put into its own folder', async () => {
    const outside = await mkdtemp(join(tmpdir(), 'drover-outside-'));
    await writeFile(join(outside, 'precious'), Buffer.alloc(MIB, 1));
    const plant = async () => {
      const folder = join(path, UUID);
      await pool.addDomain(UUID);
      await symlink(outside, join(folder, 'root'));
      await symlink(join(outside, 'precious'), join(folder, 'root.raw'));
      await symlink('/dev/zero', join(folder, 'zero'));
      let deep = folder;
      for (let depth = 0; depth < 60; depth += 1) {
        deep = join(deep, 'd');
        await mkdir(deep);
      }
      await symlink(outside, join(deep, 'out'));
      await writeFile(join(deep, 'x'), 'x');
      // A name that is no text.
      await writeFile(Buffer.concat([Buffer.from(`${folder}/`), Buffer.of(0xff, 0xfe)]), 'x');
    };
    await plant();
    const location = pool.locate(UUID, 'root', 'raw');
    expect(await pool.allocatedBytes(location)).toBe(0);
    await expect(pool.createImage(root, options)).rejects.toMatchObject({
      reason: 'DISK_IO_ERROR',
    });
    const available = (await pool.facts()).availableBytes;
    const noted = pool.note(UUID, 16 * MIB);
    // Nothing behind the links counts as the domain's own.
    expect((await pool.facts()).availableBytes).toBeLessThan(available - 8 * MIB);
    noted.release();
    await pool.bury(UUID, 1);
    expect(await pool.tombstoneBytes(UUID)).toBeLessThan(64 * 1024);
    await pool.removeTombstone(UUID);
    await plant();
    await pool.removeDomain(UUID);
    await pool.removeDomain(UUID);
    expect((await readdir(path)).sort()).toEqual(['.tombstones', 'images']);
    expect(await readdir(join(path, '.tombstones'))).toEqual([]);
    expect((await stat(join(outside, 'precious'))).size).toBe(MIB);
    await rm(outside, { recursive: true });
  });

  it('removes a link in the place of a domain, and nothing behind it', async () => {
    const outside = await mkdtemp(join(tmpdir(), 'drover-outside-'));
    await writeFile(join(outside, 'root.raw'), 'x');
    await symlink(outside, join(path, UUID));
    await expect(pool.addDomain(UUID)).rejects.toMatchObject({ reason: 'DISK_IO_ERROR' });
    await expect(pool.createImage(root, options)).rejects.toMatchObject({
      reason: 'DISK_IO_ERROR',
    });
    await pool.removeDomain(UUID);
    expect(await readdir(outside)).toEqual(['root.raw']);
    expect(await pool.hasDomain(UUID)).toBe(false);
    await rm(outside, { recursive: true });
  });

  it('is not used any more when another folder is in its place', async () => {
    const moved = `${path}-moved`;
    await rename(path, moved);
    const missing = { reason: 'DISK_TARGET_MISSING' };
    await expect(pool.addDomain(UUID)).rejects.toMatchObject(missing);
    await mkdir(path);
    await expect(pool.addDomain(UUID)).rejects.toMatchObject(missing);
    await rm(path, { recursive: true });
    await symlink(moved, path);
    await expect(pool.removeDomain(UUID)).rejects.toMatchObject(missing);
    await rm(path);
    await rename(moved, path);
    await pool.addDomain(UUID);
  });

  it.each([
    ['the pool itself', ''],
    ['its catalogue', 'images'],
    ['where its tombstones are', '.tombstones'],
    ['a folder above it', '..'],
  ])('is refused while others may write to %s', async (_what, below) => {
    const pools = join(path, 'pools', 'one');
    await mkdir(pools, { recursive: true });
    const settings = { name: 'one', path: pools, shared: false };
    await DirectoryPool.open(settings, new FakeImageTool());
    const folder = join(pools, below);
    await chmod(folder, 0o777);
    await expect(DirectoryPool.open(settings, new FakeImageTool())).rejects.toMatchObject({
      reason: 'DISK_TARGET_MISSING',
      message: expect.stringContaining(`${folder} is writable by others`),
      hint: `Run \`chmod go-w ${folder}\`.`,
    });
    await chmod(folder, 0o755);
    await DirectoryPool.open(settings, new FakeImageTool());
  });

  it.runIf(process.getuid?.() === 0)('is refused where a user could replace it', async () => {
    const pools = join(path, 'pools', 'one');
    await mkdir(pools, { recursive: true });
    const settings = { name: 'one', path: pools, shared: false };
    for (const folder of [pools, join(path, 'pools')]) {
      await chown(folder, 12_345, 12_345);
      await expect(DirectoryPool.open(settings, new FakeImageTool())).rejects.toMatchObject({
        reason: 'DISK_TARGET_MISSING',
        message: expect.stringContaining(`${folder} belongs to the user 12345`),
      });
      await chown(folder, 0, 0);
    }
    await DirectoryPool.open(settings, new FakeImageTool());
  });
});

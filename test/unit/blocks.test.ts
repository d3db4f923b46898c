import { execFileSync } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  createBootSectorImage,
  type GuestKind,
  linuxBlock,
  readDisk,
  writeDisk,
} from '../support/blocks.js';

let folder: string;
let image: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-blocks-'));
  image = join(folder, 'disk.raw');
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

async function patch(at: number, bytes: Buffer): Promise<void> {
  await using file = await open(image, 'r+');
  await file.write(bytes, 0, bytes.length, at);
}

describe.each<GuestKind>(['linux', 'boot-sector'])('a disk of the %s guest', (guest) => {
  const [firstByte, blockBytes] = guest === 'linux' ? [65_536, 4096] : [32_768, 512];

  test('gives the number of every slot and the disk it belongs to', async () => {
    const writes = [3, 4, 5].map((seq) => ({ disk: 2, seq }));
    await writeDisk(image, guest, writes);
    const content = await readDisk(image, { guest });
    expect(content.disk).toBe(2);
    expect([...content.blocks.values()]).toEqual([3, 4, 5]);
    expect(content.tornSlots).toEqual([]);
  });

  test('shows a block of which only the beginning was written as torn', async () => {
    await writeDisk(
      image,
      guest,
      [1, 2].map((seq) => ({ disk: 0, seq })),
    );
    await patch(firstByte + 2 * blockBytes + blockBytes / 2, Buffer.alloc(blockBytes / 2));
    const content = await readDisk(image, { guest });
    expect(content.tornSlots).toEqual([2]);
    expect([...content.blocks.values()]).toEqual([1]);
  });

  test('shows a block in the wrong slot as torn', async () => {
    await writeDisk(image, guest, [{ disk: 0, seq: 1 }]);
    await using file = await open(image, 'r+');
    const block = Buffer.alloc(blockBytes);
    await file.read(block, 0, blockBytes, firstByte + blockBytes);
    await file.write(block, 0, blockBytes, firstByte + 7 * blockBytes);
    expect((await readDisk(image, { guest })).tornSlots).toEqual([7]);
  });

  test('refuses blocks of two disks on one', async () => {
    await writeDisk(image, guest, [
      { disk: 0, seq: 1 },
      { disk: 1, seq: 2 },
    ]);
    await expect(readDisk(image, { guest })).rejects.toThrow('blocks of 2 disks');
  });

  test('refuses an empty disk', async () => {
    await writeDisk(image, guest, []);
    await expect(readDisk(image, { guest })).rejects.toThrow('blocks of 0 disks');
  });
});

test('a qcow2 image reads like a raw one', async () => {
  await writeDisk(image, 'linux', [{ disk: 1, seq: 9 }]);
  const qcow2 = join(folder, 'disk.qcow2');
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', image, qcow2]);
  const content = await readDisk(qcow2, { guest: 'linux', format: 'qcow2' });
  expect(content.disk).toBe(1);
  expect([...content.blocks]).toEqual([[9, 9]]);
});

test('a number beyond 32 bits keeps its high half', async () => {
  const seq = 2 ** 32 + 5;
  expect(linuxBlock(0, seq).readUInt32LE(12)).toBe(1);
  await writeDisk(image, 'linux', [{ disk: 0, seq }]);
  expect([...(await readDisk(image, { guest: 'linux' })).blocks.values()]).toEqual([seq]);
});

test('an image that starts the boot-sector guest has its mark and its size', async () => {
  await createBootSectorImage(image, 8 * 1024 * 1024);
  await using file = await open(image, 'r');
  const sector = Buffer.alloc(512);
  await file.read(sector, 0, 512, 0);
  expect(sector.readUInt16LE(510)).toBe(0xaa55);
  expect((await file.stat()).size).toBe(8 * 1024 * 1024);
});

import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Which guest wrote the disk. The two formats are described in test/guest, beside the programs. */
export type GuestKind = 'linux' | 'boot-sector';

/** What the numbered blocks on a disk are. */
export interface DiskContent {
  /** The number the guest gave this disk. */
  readonly disk: number;
  readonly slots: number;
  /** Number of the whole block found in each slot; empty and torn slots are left out. */
  readonly blocks: ReadonlyMap<number, number>;
  /** Slots that hold something else: half of a block, a block of another slot, disk or guest. */
  readonly tornSlots: readonly number[];
}

interface Layout {
  readonly blockBytes: number;
  readonly firstByte: number;
  readonly slots: number;
  /** The number and disk that a block claims to hold, or undefined when it claims nothing. */
  claim(block: Buffer): { disk: number; seq: number } | undefined;
  /** The very bytes that such a block must have; bytes of no meaning are left out at the end. */
  expected(disk: number, seq: number): Buffer;
}

const MAGIC = 0x52565244;
const TWO_TO_32 = 2 ** 32;

const LINUX: Layout = {
  blockBytes: 4096,
  firstByte: 65_536,
  slots: 4096,
  claim: (block) =>
    block.readUInt32LE(0) === MAGIC
      ? {
          disk: block.readUInt32LE(4),
          seq: block.readUInt32LE(8) + block.readUInt32LE(12) * TWO_TO_32,
        }
      : undefined,
  expected: linuxBlock,
};

const BOOT_SECTOR: Layout = {
  blockBytes: 512,
  firstByte: 32_768,
  slots: 8192,
  claim: (block) =>
    block.toString('latin1', 0, 3) === 'DRV'
      ? { disk: block.readUInt8(3), seq: block.readUInt32LE(4) }
      : undefined,
  expected: bootSectorBlock,
};

function scrambled(disk: number, seq: number, index: number): number {
  let x = (seq ^ Math.imul(index, 0x9e3779b9) ^ Math.imul(disk, 0x85ebca6b)) + 0x7f4a7c15;
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The block that the Linux guest's program writes for a number. */
export function linuxBlock(disk: number, seq: number): Buffer {
  const block = Buffer.alloc(4096);
  const low = seq % TWO_TO_32;
  const high = Math.floor(seq / TWO_TO_32);
  for (let i = 0; i < 1024; i++) block.writeUInt32LE(scrambled(disk, low, i), i * 4);
  const header = [MAGIC, disk, low, high, ~low >>> 0, ~high >>> 0];
  for (let sector = 0; sector < 4096; sector += 512) {
    for (const [i, word] of header.entries()) block.writeUInt32LE(word, sector + i * 4);
  }
  return block;
}

/** The sector that the boot-sector guest writes for a number, without its last 8 bytes. */
function bootSectorBlock(disk: number, seq: number): Buffer {
  const block = Buffer.alloc(504);
  for (let at = 0; at < block.length; at += 12) {
    block.write('DRV', at, 'latin1');
    block.writeUInt8(disk, at + 3);
    block.writeUInt32LE(seq, at + 4);
    block.writeUInt32LE(~seq >>> 0, at + 8);
  }
  return block;
}

export interface ReadDiskOptions {
  readonly guest: GuestKind;
  /** Format of the image file; default `raw`. */
  readonly format?: 'raw' | 'qcow2';
  /** Slots the guest uses, where not its default (4096 for Linux, 8192 for the boot sector). */
  readonly slots?: number;
}

/**
 * Reads the numbered blocks of a disk image. No QEMU may have the image open.
 *
 * @throws Error when the image cannot be read, or holds blocks of no or of several disks.
 */
export async function readDisk(path: string, options: ReadDiskOptions): Promise<DiskContent> {
  if ((options.format ?? 'raw') === 'raw') return readRaw(path, options);
  const folder = await mkdtemp(join(tmpdir(), 'drover-disk-'));
  try {
    const raw = join(folder, 'disk.raw');
    await promisify(execFile)('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, raw]);
    return await readRaw(raw, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readRaw(path: string, options: ReadDiskOptions): Promise<DiskContent> {
  const layout = options.guest === 'linux' ? LINUX : BOOT_SECTOR;
  const { blockBytes, firstByte } = layout;
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const fitting = Math.max(0, Math.floor((size - firstByte) / blockBytes));
  const slots = Math.min(options.slots ?? layout.slots, fitting);
  const bytes = Buffer.alloc(slots * blockBytes);
  await file.read(bytes, 0, bytes.length, firstByte);
  const claims = new Map<number, { disk: number; seq: number }>();
  const tornSlots: number[] = [];
  for (let slot = 0; slot < slots; slot++) {
    const block = bytes.subarray(slot * blockBytes, (slot + 1) * blockBytes);
    const claim = layout.claim(block);
    if (claim !== undefined && holds(block, claim, slot, slots, layout)) claims.set(slot, claim);
    else if (claim !== undefined || block.some((byte) => byte !== 0)) tornSlots.push(slot);
  }
  const disks = new Set([...claims.values()].map(({ disk }) => disk));
  const [disk] = disks;
  if (disk === undefined || disks.size > 1) {
    throw new Error(`${path}: blocks of ${disks.size} disks (${[...disks]}), not of one`);
  }
  const blocks = new Map([...claims].map(([slot, { seq }]) => [slot, seq]));
  return { disk, slots, blocks, tornSlots };
}

function holds(
  block: Buffer,
  { disk, seq }: { disk: number; seq: number },
  slot: number,
  slots: number,
  layout: Layout,
): boolean {
  const expected = layout.expected(disk, seq);
  return seq % slots === slot && block.subarray(0, expected.length).equals(expected);
}

/**
 * Makes a raw disk image that starts the boot-sector guest. With several disks every one of them
 * should be made like this: which one the BIOS starts from depends on their buses.
 *
 * @param sizeBytes at least 4.1 MiB and a multiple of 512.
 */
export async function createBootSectorImage(path: string, sizeBytes: number): Promise<void> {
  await copyFile(fileURLToPath(new URL('../guest/boot-sector.bin', import.meta.url)), path);
  await truncate(path, sizeBytes);
}

/** Writes blocks into a raw image as a guest would; for tests of the checker itself. */
export async function writeDisk(
  path: string,
  guest: GuestKind,
  writes: readonly { readonly disk: number; readonly seq: number }[],
  slots = (guest === 'linux' ? LINUX : BOOT_SECTOR).slots,
): Promise<void> {
  const layout = guest === 'linux' ? LINUX : BOOT_SECTOR;
  await writeFile(path, '');
  await truncate(path, layout.firstByte + slots * layout.blockBytes);
  await using file = await open(path, 'r+');
  for (const { disk, seq } of writes) {
    const block = layout.expected(disk, seq);
    await file.write(block, 0, block.length, layout.firstByte + (seq % slots) * layout.blockBytes);
  }
}

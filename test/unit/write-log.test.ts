import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LaunchRequest } from '../../src/process/launcher.js';
import { PowerLossLauncher, readWriteLog, replay, survivors } from '../support/write-log.js';

const SECTOR_BYTES = 512;
const [FLUSH, FUA, DISCARD] = [1, 2, 4];

let folder: string;
let log: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-write-log-'));
  log = join(folder, 'log');
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

interface Entry {
  readonly sector?: number;
  /** Sectors of this byte. */
  readonly fill?: number;
  readonly sectors?: number;
  readonly flags?: number;
}

/** Writes a log as QEMU does, with the number of entries that its first sector knows of. */
async function write(entries: readonly Entry[], counted = entries.length): Promise<void> {
  const head = Buffer.alloc(SECTOR_BYTES);
  head.writeBigUInt64LE(0x6a736677736872n, 0);
  head.writeBigUInt64LE(1n, 8);
  head.writeBigUInt64LE(BigInt(counted), 16);
  head.writeUInt32LE(SECTOR_BYTES, 24);
  const parts = entries.flatMap(({ sector = 0, fill = 0, sectors = 0, flags = 0 }) => {
    const entry = Buffer.alloc(SECTOR_BYTES);
    entry.writeBigUInt64LE(BigInt(sector), 0);
    entry.writeBigUInt64LE(BigInt(sectors), 8);
    entry.writeBigUInt64LE(BigInt(flags), 16);
    return flags & DISCARD ? [entry] : [entry, Buffer.alloc(sectors * SECTOR_BYTES, fill)];
  });
  await writeFile(log, Buffer.concat([head, ...parts]));
}

/** The first byte of each of the first four sectors after a power loss. */
async function afterPowerLoss(): Promise<number[]> {
  const image = join(folder, 'image');
  await replay(survivors(await readWriteLog(log)), image, 4 * SECTOR_BYTES);
  const bytes = await readFile(image);
  return [0, 1, 2, 3].map((sector) => bytes[sector * SECTOR_BYTES] ?? -1);
}

describe('a write log', () => {
  test('keeps what was written before the last flush and loses what was written after it', async () => {
    const writes = [
      { sector: 0, sectors: 2, fill: 1 },
      { flags: FLUSH },
      { sector: 1, sectors: 1, fill: 2 },
      { flags: FLUSH },
    ];
    await write([...writes, { sector: 0, sectors: 4, fill: 3 }]);
    expect(await afterPowerLoss()).toEqual([1, 2, 0, 0]);
  });

  test('without flushes keeps nothing', async () => {
    await write([{ sector: 0, sectors: 4, fill: 1 }]);
    expect(await afterPowerLoss()).toEqual([0, 0, 0, 0]);
    await writeFile(log, '');
    expect(await afterPowerLoss()).toEqual([0, 0, 0, 0]);
  });

  test('keeps a write that was safe at once, and not its unsafe neighbours', async () => {
    await write([
      { sector: 0, sectors: 1, fill: 1 },
      { sector: 1, sectors: 1, fill: 2, flags: FUA },
      { sector: 2, sectors: 1, fill: 3 },
    ]);
    expect(await afterPowerLoss()).toEqual([0, 2, 0, 0]);
  });

  test('takes zeroes and discards for zeroes', async () => {
    await write([
      { sector: 0, sectors: 4, fill: 1 },
      { sector: 1, sectors: 1, fill: 0 },
      { sector: 2, sectors: 1, flags: DISCARD },
      { flags: FLUSH },
    ]);
    expect(await afterPowerLoss()).toEqual([1, 0, 0, 1]);
  });

  test('leaves out what QEMU had not counted', async () => {
    const flushed = [{ sector: 0, sectors: 1, fill: 1 }, { flags: FLUSH }];
    await write([...flushed, { sector: 1, sectors: 1, fill: 2 }, { flags: FLUSH }], 2);
    expect(await afterPowerLoss()).toEqual([1, 0, 0, 0]);
  });

  test('is refused where it makes no sense', async () => {
    await write([{ sector: 0, sectors: 0 }, { flags: FLUSH }]);
    await expect(readWriteLog(log)).rejects.toThrow('entry 0 of 2 at byte 512 makes no sense');
    await writeFile(log, Buffer.alloc(SECTOR_BYTES, 7));
    await expect(readWriteLog(log)).rejects.toThrow('not a write log');
  });
});

describe('a launcher of a host that can lose its power', () => {
  const file = { driver: 'file', 'node-name': 'a-file', filename: '/a' };
  const image = { driver: 'raw', 'node-name': 'a-image', file: 'a-file' };
  const disks = ['-blockdev', JSON.stringify(file), '-blockdev', JSON.stringify(image)];

  async function launched(argv: readonly string[]): Promise<readonly string[]> {
    let request: LaunchRequest | undefined;
    const inner = {
      launch: async (given: LaunchRequest) => {
        request = given;
        throw new Error('not started');
      },
      adopt: async () => undefined,
    };
    const launch = new PowerLossLauncher(inner, folder).launch({
      ...{ name: 'a', command: '/bin/true', logPath: '/dev/null' },
      argv,
    });
    await expect(launch).rejects.toThrow('not started');
    return request?.argv ?? [];
  }

  test('puts a log between the image and its file where a guest comes in', async () => {
    const argv = await launched(['-incoming', 'defer', ...disks]);
    const nodes = argv.flatMap((argument, i) =>
      argv[i - 1] === '-blockdev' ? [JSON.parse(argument)] : [],
    );
    expect(nodes).toMatchObject([
      file,
      { driver: 'blklogwrites', 'node-name': 'logged-a-file', file: 'a-file' },
      { ...image, file: 'logged-a-file' },
    ]);
  });

  test('leaves any other QEMU as it is', async () => {
    expect(await launched(disks)).toEqual(disks);
  });
});

import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AppendError, AppendLog, readLog } from '../../../src/util/append-log.js';
import { encodeRecord, parseLog } from '../../../src/util/log-format.js';
import { FaultyFiles } from '../../support/faulty-files.js';

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drover-log-'));
  path = join(folder, 'test.log');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const DURABLE = { durable: true };
const CASUAL = { durable: false };

async function write(...names: string[]): Promise<void> {
  await using log = await AppendLog.create(path, { record: 'HEADER' });
  for (const record of names) await log.append({ record }, DURABLE);
}

async function names(): Promise<unknown[]> {
  return (await readLog(path)).records.map(({ record }) => record);
}

async function failure(work: Promise<unknown>): Promise<AppendError> {
  const error = await work.then(
    () => undefined,
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(AppendError);
  return error as AppendError;
}

/** Where each line of the log ends. */
function lineEnds(): number[] {
  const data = readFileSync(path);
  const ends: number[] = [];
  for (let at = data.indexOf(10); at >= 0; at = data.indexOf(10, at + 1)) ends.push(at + 1);
  return ends;
}

const line = (n: number, synced = n) => encodeRecord({}, n, synced).line;

describe('a log', () => {
  it('reads back what was appended, numbered from 0', async () => {
    await write('ONE', 'TWO');
    const { records, tail, problem } = await readLog(path);
    expect(records).toEqual([
      { n: 0, synced: 0, record: 'HEADER' },
      { n: 1, synced: 1, record: 'ONE' },
      { n: 2, synced: 2, record: 'TWO' },
    ]);
    expect({ tail, problem }).toEqual({ tail: 'clean', problem: undefined });
  });

  it('holds a record as its length and its CRC in hex, its JSON, and a newline', async () => {
    await write();
    const json = '{"n":0,"synced":0,"record":"HEADER"}';
    const head = `${json.length.toString(16).padStart(8, '0')} ${crc32(json).toString(16).padStart(8, '0')}`;
    expect(readFileSync(path, 'latin1').replace(/\0+$/, '')).toBe(`${head} ${json}\n`);
  });

  it('is filled with zeros beforehand and grows by the same step', async () => {
    await using log = await AppendLog.create(path, { a: 1 }, { stepBytes: 512 });
    expect(statSync(path).size).toBe(512);
    await log.append({ text: 'x'.repeat(1000) }, DURABLE);
    expect(statSync(path).size).toBe(1536);
    const { records, tail } = await readLog(path);
    expect([records.length, tail]).toEqual([2, 'clean']);
  });

  it('makes a record durable by one fdatasync behind one write, without changing its length', async () => {
    const files = new FaultyFiles();
    await using log = await AppendLog.create(path, { a: 1 }, { files });
    files.done.length = 0;
    await log.append({ b: 2 }, CASUAL);
    expect(files.done).toEqual(['read', 'write']);
    files.done.length = 0;
    await log.append({ c: 3 }, DURABLE);
    expect(files.done).toEqual(['read', 'write', 'datasync']);
    expect(statSync(path).size).toBe(16 * 1024);
  });

  it('takes records that are asked for at once one after the other', async () => {
    await using log = await AppendLog.create(path, { record: 'HEADER' });
    await Promise.all(
      ['A', 'B', 'C', 'D'].map((record) => log.append({ record }, { durable: record === 'C' })),
    );
    expect(await names()).toEqual(['HEADER', 'A', 'B', 'C', 'D']);
    expect(log.records.map(({ synced }) => synced)).toEqual([0, 1, 1, 1, 4]);
  });

  it('goes on where it was after it was closed and opened', async () => {
    await write('ONE');
    {
      await using log = await AppendLog.open(path);
      await log.append({ record: 'TWO' }, DURABLE);
    }
    expect(await names()).toEqual(['HEADER', 'ONE', 'TWO']);
  });

  it('makes durable what it read before it is open, and is not open if that fails', async () => {
    await write('ONE');
    const files = new FaultyFiles();
    files.fail('datasync', { code: 'EIO' });
    const error = await failure(AppendLog.open(path, { files }));
    expect([error.outcome, error.broken]).toEqual(['unknown', true]);
    files.done.length = 0;
    await using _log = await AppendLog.open(path, { files });
    expect(files.done).toEqual(['open', 'stat', 'read', 'write', 'datasync']);
  });

  it('has the records in memory as a reader of the file has them', async () => {
    await using log = await AppendLog.create(path, { record: 'HEADER' });
    await log.append({ at: new Date(0), nothing: undefined, n: 99, synced: 99 }, DURABLE);
    expect(log.records.at(-1)).toEqual({ n: 1, synced: 1, at: '1970-01-01T00:00:00.000Z' });
    expect(log.records).toEqual((await readLog(path)).records);
  });

  it('takes nothing more once it is closed', async () => {
    const log = await AppendLog.create(path, { a: 1 });
    await log.close();
    await log.close();
    expect((await failure(log.append({ b: 2 }, CASUAL))).broken).toBe(false);
  });

  it('does not append behind what another writer has put there', async () => {
    await using one = await AppendLog.create(path, { record: 'HEADER' });
    {
      await using other = await AppendLog.open(path);
      await other.append({ record: 'OTHER' }, DURABLE);
    }
    expect((await failure(one.append({ record: 'ONE' }, DURABLE))).outcome).toBe('unwritten');
    expect(await names()).toEqual(['HEADER', 'OTHER']);
  });
});

describe('making a log', () => {
  it('leaves a file that only its owner can read, and nothing else', async () => {
    await write();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(folder)).toEqual(['test.log']);
  });

  it('refuses a name that is taken and leaves that file as it is', async () => {
    await write('ONE');
    await expect(AppendLog.create(path, { a: 1 })).rejects.toMatchObject({ code: 'EEXIST' });
    expect(await names()).toEqual(['HEADER', 'ONE']);
    expect(readdirSync(folder)).toEqual(['test.log']);
  });

  it('tells the first record which file it will be in', async () => {
    await using log = await AppendLog.create(path, (identity) => ({ ...identity }));
    const { dev, ino } = statSync(path, { bigint: true });
    expect(log.records[0]).toMatchObject({ device: String(dev), inode: String(ino) });
  });

  it.each(['write', 'sync', 'link', 'syncDirectory'] as const)(
    'leaves nothing behind when %s fails',
    async (operation) => {
      const files = new FaultyFiles();
      files.fail(operation, { code: 'EIO' });
      await expect(AppendLog.create(path, { a: 1 }, { files })).rejects.toMatchObject({
        code: 'EIO',
      });
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  it('starts anew over what an earlier life left unfinished', async () => {
    writeFileSync(join(folder, '.test.log.new'), 'half');
    await write();
    expect(readdirSync(folder)).toEqual(['test.log']);
  });

  it('opens nothing through a symbolic link', async () => {
    await write();
    const link = join(folder, 'link.log');
    symlinkSync(path, link);
    await expect(AppendLog.open(link)).rejects.toMatchObject({ code: 'ELOOP' });
    await expect(readLog(link)).rejects.toMatchObject({ code: 'ELOOP' });
  });
});

describe('a torn tail', () => {
  it('is what is left wherever the last record is cut off, and the next append replaces it', async () => {
    await write('ONE', 'TWO');
    const whole = readFileSync(path);
    const [, start = 0, end = 0] = lineEnds();
    for (let cut = start + 1; cut < end; cut += 1) {
      for (const shortened of [true, false]) {
        // What a short file and what a file of zeros look like.
        const data = Buffer.from(whole);
        data.fill(0, cut);
        writeFileSync(path, data);
        if (shortened) truncateSync(path, cut);
        const { records, tail, endBytes } = await readLog(path);
        expect([records.length, tail, endBytes], `cut at ${cut}`).toEqual([2, 'torn', start]);
      }
    }
    await using log = await AppendLog.open(path);
    await log.append({ record: 'B' }, DURABLE);
    expect(await names()).toEqual(['HEADER', 'ONE', 'B']);
    expect((await readLog(path)).tail).toBe('clean');
  });

  it('is clean where the file ends with the last whole record', async () => {
    await write('ONE', 'TWO');
    truncateSync(path, lineEnds()[1]);
    const { records, tail } = await readLog(path);
    expect([records.length, tail]).toEqual([2, 'clean']);
  });

  it('is zeroed on storage before the next record is written', async () => {
    await write('ONE');
    const [start = 0] = lineEnds();
    const data = readFileSync(path);
    data.fill(0, start + 30);
    writeFileSync(path, data);
    const files = new FaultyFiles();
    await using log = await AppendLog.open(path, { files });
    files.done.length = 0;
    await log.append({ a: 1 }, DURABLE);
    expect(files.done).toEqual(['write', 'read', 'datasync', 'write', 'datasync']);
  });

  it.each([
    [
      'may lack a sector before later records, of which nobody was promised anything',
      false,
      'torn',
    ],
    ['is corruption where the record that lacks a sector was durable', true, 'corrupt'],
  ])('%s', async (_, durable, expected) => {
    const log = await AppendLog.create(path, { text: 'x'.repeat(450) });
    await log.append({ record: 'LACKING', text: 'y'.repeat(600) }, { durable });
    await log.append({ record: 'WHOLE', text: 'z'.repeat(600) }, CASUAL);
    await log.close();
    const data = readFileSync(path);
    writeFileSync(path, data.fill(0, 512, 1024));
    const { records, tail } = await readLog(path);
    expect([records.length, tail]).toEqual([1, expected]);
  });
});

describe('corruption', () => {
  it('is any changed byte of an earlier record, and the log is not opened to append', async () => {
    await write('ONE', 'TWO');
    const whole = readFileSync(path);
    const [first = 0, second = 0] = lineEnds();
    for (let at = 0; at < second; at += 1) {
      for (const changed of [0x01, 0x20, 0x80, whole[at] ?? 0]) {
        const data = Buffer.from(whole);
        data[at] = (whole[at] ?? 0) ^ changed;
        const { records, tail } = parseLog(data);
        expect([records.length, tail], `byte ${at} ^ ${changed}`).toEqual([
          at < first ? 0 : 1,
          'corrupt',
        ]);
      }
    }
    whole[first + 20] = 0x41;
    writeFileSync(path, whole);
    await expect(AppendLog.open(path)).rejects.toMatchObject({ reason: 'JOURNAL_CORRUPT' });
    expect(await readLog(path)).toMatchObject({
      tail: 'corrupt',
      problem: expect.stringContaining(`record 1 at byte ${first}`),
    });
    expect((await readLog(path)).records).toHaveLength(1);
  });

  // Otherwise one changed bit would turn COMMITTED into a migration that was never committed.
  it('is a changed byte of the last record too, because no interrupted write leaves that', async () => {
    await write('ONE', 'COMMITTED');
    const whole = readFileSync(path);
    const [, start = 0, end = 0] = lineEnds();
    for (let at = start; at < end; at += 1) {
      for (let bit = 0; bit < 8; bit += 1) {
        const data = Buffer.from(whole);
        data[at] = (whole[at] ?? 0) ^ (1 << bit);
        expect(parseLog(data).tail, `byte ${at} bit ${bit}`).toBe('corrupt');
      }
    }
  });

  it('is a gap in the numbers', () => {
    const data = Buffer.concat([line(0), line(2)]);
    expect(parseLog(data)).toMatchObject({ tail: 'corrupt', records: [{ n: 0 }] });
  });

  it('is a record that stands twice', () => {
    const data = Buffer.concat([line(0), line(0)]);
    expect(parseLog(data)).toMatchObject({ tail: 'corrupt', records: [{ n: 0 }] });
  });

  it('is a durable record that is missing before a later one', () => {
    const lost = Buffer.alloc(line(1).length);
    const data = Buffer.concat([line(0), lost, line(2)]);
    expect(parseLog(data).tail).toBe('corrupt');
  });

  it('is something else behind the last record', () => {
    for (const rest of ['garbage', '\0\0garbage', 'ffffffff 00000000 {"a":1', '\n']) {
      const data = Buffer.concat([line(0), Buffer.from(rest), Buffer.alloc(64)]);
      const expected = rest.startsWith('ffff') ? 'torn' : 'corrupt';
      expect(parseLog(data).tail, JSON.stringify(rest)).toBe(expected);
    }
  });
});

describe('a write that fails', () => {
  it.each([0, 1, 30])(
    'leaves the record unwritten with %i bytes on disk, and further appends work',
    async (takenBytes) => {
      const files = new FaultyFiles();
      await using log = await AppendLog.create(path, { record: 'HEADER' }, { files });
      files.fail('write', { code: 'ENOSPC', takenBytes });
      const error = await failure(log.append({ record: 'LOST' }, DURABLE));
      expect([error.outcome, error.broken, error.reason]).toEqual([
        'unwritten',
        false,
        'JOURNAL_FAILED',
      ]);
      expect(error.cause).toMatchObject({ code: 'ENOSPC' });
      expect((await readLog(path)).tail).toBe(takenBytes === 0 ? 'clean' : 'torn');
      await log.append({ record: 'A' }, DURABLE);
      expect(await names()).toEqual(['HEADER', 'A']);
      expect((await readLog(path)).tail).toBe('clean');
      expect(log.broken).toBe(false);
    },
  );

  it('keeps nothing of a record that the file took whole before it said no', async () => {
    const files = new FaultyFiles();
    await using log = await AppendLog.create(path, { record: 'HEADER' }, { files });
    files.fail('write', { code: 'EIO', takenBytes: 10_000 });
    await failure(log.append({ record: 'COMMITTED', why: 'a long reason' }, DURABLE));
    await log.append({ record: 'ABORTED' }, DURABLE);
    expect(await names()).toEqual(['HEADER', 'ABORTED']);
    expect((await readLog(path)).tail).toBe('clean');
  });

  it('leaves the log as it was when it cannot grow', async () => {
    const files = new FaultyFiles();
    await using log = await AppendLog.create(path, { record: 'HEADER' }, { files, stepBytes: 256 });
    files.fail('write', { code: 'ENOSPC', takenBytes: 100, times: 2 });
    const long = { record: 'LONG', text: 'x'.repeat(300) };
    expect((await failure(log.append(long, DURABLE))).outcome).toBe('unwritten');
    expect((await failure(log.append(long, DURABLE))).outcome).toBe('unwritten');
    await log.append({ record: 'SHORT' }, DURABLE);
    await log.append(long, DURABLE);
    expect(await names()).toEqual(['HEADER', 'SHORT', 'LONG']);
  });

  it('goes on with the rest where the file took only a part', async () => {
    const files = new FaultyFiles();
    const { open } = files;
    files.open = async (...args) => {
      const file = await open.apply(files, args);
      return { ...file, write: (bytes, at) => file.write(bytes.subarray(0, 7), at) };
    };
    await using log = await AppendLog.create(path, { record: 'HEADER' }, { files, stepBytes: 64 });
    await log.append({ record: 'A' }, DURABLE);
    expect(await names()).toEqual(['HEADER', 'A']);
  });
});

describe('an fdatasync that fails', () => {
  it('leaves it unknown whether the record is there and breaks the log for ever', async () => {
    const files = new FaultyFiles();
    await using log = await AppendLog.create(path, { record: 'HEADER' }, { files });
    files.fail('datasync', { code: 'EIO' });
    const error = await failure(log.append({ record: 'COMMITTED' }, DURABLE));
    expect([error.outcome, error.broken, log.broken]).toEqual(['unknown', true, true]);
    files.done.length = 0;
    for (const durable of [true, false]) {
      const later = await failure(log.append({ record: 'ABORTED' }, { durable }));
      expect([later.outcome, later.broken]).toEqual(['unwritten', true]);
    }
    expect(files.done).toEqual([]);
  });

  it('breaks the log also while it clears a torn tail or grows', async () => {
    const files = new FaultyFiles();
    await using log = await AppendLog.create(path, { record: 'HEADER' }, { files, stepBytes: 64 });
    files.fail('datasync', { code: 'EIO' });
    const error = await failure(log.append({ text: 'x'.repeat(100) }, CASUAL));
    expect([error.outcome, error.broken, log.broken]).toEqual(['unwritten', true, true]);
    expect(await names()).toEqual(['HEADER']);
  });
});

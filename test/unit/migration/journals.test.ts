import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { JournalSubject } from '../../../src/migration/journal.js';
import { judgeJournal } from '../../../src/migration/journal-file.js';
import { readAttempt, readPhase } from '../../../src/migration/journal-reading.js';
import { DURABLE_RECORDS, JOURNAL_RECORDS } from '../../../src/migration/journal-records.js';
import { Journals } from '../../../src/migration/journals.js';
import { headerAtDestination } from '../../../src/migration/peer-header.js';
import type { StateBinding } from '../../../src/util/binding.js';
import { encodeRecord, type LogFields, parseLog } from '../../../src/util/log-format.js';
import { FaultyFiles } from '../../support/faulty-files.js';

const DOMAIN = '6f1c2a34-0000-4000-8000-000000000001';
const MIGRATION = '01931c2a-0000-7000-8000-000000000001';
const SUBJECT: JournalSubject = {
  migrationId: MIGRATION,
  side: 'source',
  domainUuid: DOMAIN,
  domainName: 'web1',
  sourceHost: 'host-a',
  destinationHost: 'host-b',
  epoch: 0,
  generation: 3,
  attempt: 1,
};
const HERE: StateBinding = { machineId: 'm1', bootId: 'b1', device: '64768', inode: '42' };

let state: string;
let folder: string;
let files: FaultyFiles;
let journals: Journals;
const path = () => join(folder, DOMAIN, `${MIGRATION}.source.log`);

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'drover-journals-'));
  folder = join(state, 'journal');
  files = new FaultyFiles();
  journals = new Journals({ folder, binding: HERE, files });
});

afterEach(() => rmSync(state, { recursive: true, force: true }));

async function write(...records: (keyof typeof JOURNAL_RECORDS)[]): Promise<void> {
  await using journal = await journals.create(SUBJECT);
  for (const record of records) await journal.append(record);
}

async function only() {
  const [file, ...others] = await journals.readAll();
  expect(others).toEqual([]);
  if (!file) throw new Error('There is no journal.');
  return file;
}

describe('a journal', () => {
  it('begins with a header that says whose it is, where it lies, and what its maker adds', async () => {
    await using journal = await journals.create(SUBJECT, { images: ['web1-root'] });
    expect(journal.path).toBe(path());
    const { dev, ino } = statSync(path(), { bigint: true });
    expect(journal.header).toEqual({
      ...SUBJECT,
      version: 1,
      journalId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      bootId: 'b1',
      createTime: expect.stringMatching(/^\d{4}-.*Z$/),
      binding: { ...HERE, journalDevice: String(dev), journalInode: String(ino) },
      details: { images: ['web1-root'] },
    });
    expect((await only()).header).toEqual(journal.header);
  });

  it('has a new id each time', async () => {
    await using one = await journals.create(SUBJECT);
    await using other = await journals.create({ ...SUBJECT, side: 'destination' });
    expect(one.header.journalId).not.toBe(other.header.journalId);
  });

  it('is made durable with both its folders, which only the owner can enter', async () => {
    await write();
    const { done } = files;
    expect(done.filter((operation) => operation === 'syncDirectory')).toHaveLength(3);
    expect(statSync(dirname(path())).mode & 0o777).toBe(0o700);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
  });

  it('keeps what was appended, in order, with the time and the details', async () => {
    {
      await using journal = await journals.create(SUBJECT);
      await journal.append('STARTED');
      await journal.append('DST_PREPARED', { journal: 'j2', record: 'FORGED', at: 'never', n: 99 });
      expect(journal.last).toMatchObject({ n: 2, record: 'DST_PREPARED' });
    }
    const { entries, health, problem } = await only();
    const at = expect.stringMatching(/^\d{4}-.*Z$/);
    expect(entries).toEqual([
      { n: 1, record: 'STARTED', at },
      { n: 2, record: 'DST_PREPARED', at, journal: 'j2' },
    ]);
    expect([health, problem]).toEqual(['sound', undefined]);
  });

  it.each(Object.keys(JOURNAL_RECORDS) as (keyof typeof JOURNAL_RECORDS)[])(
    'syncs %s exactly where the table says that it is durable',
    async (record) => {
      await using journal = await journals.create(SUBJECT);
      files.done.length = 0;
      await journal.append(record);
      expect(files.done.includes('datasync')).toBe(DURABLE_RECORDS.has(record));
    },
  );

  it('has every record durable that decides who may run the guest', () => {
    for (const record of 'STARTED SWITCHING COMMITTED DONE ABORTED RECLAIMED PREPARED LOADED OWNED RUNNING SOURCE_GONE SUPERSEDED'.split(
      ' ',
    )) {
      expect(DURABLE_RECORDS.has(record), record).toBe(true);
    }
  });

  it('goes on where it was when another process opens it', async () => {
    await write('STARTED', 'SWITCHING');
    {
      await using journal = await new Journals({ folder, binding: HERE }).open(path());
      expect(journal.entries.map(({ record }) => record)).toEqual(['STARTED', 'SWITCHING']);
      await journal.append('ABORTED', { by: 'rescue' });
    }
    expect((await only()).entries.at(-1)).toMatchObject({ record: 'ABORTED', by: 'rescue' });
  });

  it('is made once', async () => {
    await write('STARTED');
    await expect(journals.create(SUBJECT)).rejects.toMatchObject({ reason: 'MIGRATION_EXISTS' });
    expect((await only()).entries).toHaveLength(1);
  });

  it.each(['../../etc', '.', '', 'a/b', 'a'.repeat(65)])(
    'is not made for the id "%s"',
    async (id) => {
      await expect(journals.create({ ...SUBJECT, migrationId: id })).rejects.toMatchObject({
        reason: 'REQUEST_INVALID',
      });
      await expect(journals.create({ ...SUBJECT, domainUuid: id })).rejects.toMatchObject({
        reason: 'REQUEST_INVALID',
      });
    },
  );

  it.each(['open', 'write', 'sync', 'syncDirectory'] as const)(
    'is not there when making it fails at %s',
    async (operation) => {
      files.fail(operation, { code: 'ENOSPC' });
      await expect(journals.create(SUBJECT)).rejects.toMatchObject({ reason: 'JOURNAL_FAILED' });
      expect(await journals.readAll()).toEqual([]);
      await write();
    },
  );

  it('is broken for ever once storage did not keep a durable record', async () => {
    await using journal = await journals.create(SUBJECT);
    await journal.append('STARTED');
    files.fail('datasync', { code: 'EIO' });
    await expect(journal.append('COMMITTED')).rejects.toMatchObject({ outcome: 'unknown' });
    expect(journal.broken).toBe(true);
    expect(journal.last?.record).toBe('STARTED');
    await expect(journal.append('ABORTED')).rejects.toMatchObject({ broken: true });
    await expect(journal.append('MIRRORING')).rejects.toMatchObject({ broken: true });
  });

  it('is not broken where there was no room for a record', async () => {
    await using journal = await journals.create(SUBJECT);
    files.fail('write', { code: 'ENOSPC', takenBytes: 5 });
    await expect(journal.append('STARTED')).rejects.toMatchObject({
      outcome: 'unwritten',
      broken: false,
    });
    await journal.append('ABORTED');
    expect((await only()).entries.map(({ record }) => record)).toEqual(['ABORTED']);
  });
});

describe('reading all journals', () => {
  it('answers none where there is no folder yet', async () => {
    expect(await journals.readAll()).toEqual([]);
  });

  it('passes over what is not a journal', async () => {
    await write();
    writeFileSync(join(folder, 'README'), '');
    writeFileSync(join(folder, DOMAIN, '.m.source.log.new'), 'half');
    writeFileSync(join(folder, DOMAIN, 'notes.txt'), '');
    expect((await only()).migrationId).toBe(MIGRATION);
  });

  it('trusts a journal with a torn tail and tells of it', async () => {
    await write('STARTED', 'COMMITTED');
    const data = readFileSync(path());
    writeFileSync(path(), data.fill(0, data.lastIndexOf('\n') - 4));
    const file = await only();
    expect(file).toMatchObject({ health: 'sound', tail: 'torn' });
    expect(file.problem).toMatch(/^torn: record 2 /);
    expect(file.entries.map(({ record }) => record)).toEqual(['STARTED']);
  });

  it('tells where a journal is corrupt, gives what is readable, and does not open it', async () => {
    await write('STARTED', 'COMMITTED');
    const data = readFileSync(path());
    data[data.indexOf('COMMITTED')] = 0x43 ^ 1;
    writeFileSync(path(), data);
    const file = await only();
    expect(file).toMatchObject({ health: 'corrupt', tail: 'corrupt', header: SUBJECT });
    expect(file.problem).toMatch(/^corrupt: record 2 at byte \d+ is damaged/);
    expect(file.entries.map(({ record }) => record)).toEqual(['STARTED']);
    await expect(journals.open(path())).rejects.toMatchObject({ reason: 'JOURNAL_CORRUPT' });
  });

  it.each([
    ['without a header', '\0'.repeat(512)],
    ['that is empty', ''],
  ])('calls a file corrupt %s, and knows of what by its name', async (_, text) => {
    mkdirSync(dirname(path()), { recursive: true });
    writeFileSync(path(), text);
    expect(await only()).toMatchObject({
      domainUuid: DOMAIN,
      migrationId: MIGRATION,
      side: 'source',
      header: undefined,
      health: 'corrupt',
      problem: 'corrupt: it has no header',
    });
    await expect(journals.open(path())).rejects.toMatchObject({ reason: 'JOURNAL_CORRUPT' });
  });

  it('calls a journal corrupt that cannot be read, and goes on with the others', async () => {
    await write('STARTED');
    mkdirSync(join(folder, DOMAIN, 'm2.destination.log'));
    const healths = (await journals.readAll()).map(({ health }) => health);
    expect(healths).toEqual(['sound', 'corrupt']);
  });

  it('calls a journal corrupt that a later version has made', async () => {
    await write();
    const { AppendLog } = await import('../../../src/util/append-log.js');
    rmSync(path());
    await (await AppendLog.create(path(), { record: 'HEADER', version: 2 })).close();
    expect((await only()).problem).toContain('version 2');
  });
});

describe('a foreign journal', () => {
  it.each([
    ['machine', { machineId: 'm2' }, 'the machine id was m1 and is m2'],
    ['place', { inode: '43' }, 'the inode of the state directory was 42 and is 43'],
    [
      'file system',
      { device: '64769' },
      'the device of the state directory was 64768 and is 64769',
    ],
  ])('is one that was written in another %s', async (_, other, problem) => {
    await write('STARTED');
    const elsewhere = new Journals({ folder, binding: { ...HERE, ...other } });
    const [file] = await elsewhere.readAll();
    expect(file).toMatchObject({ health: 'foreign', problem: `foreign: ${problem}` });
    expect(file?.entries).toHaveLength(1);
    await expect(elsewhere.open(path())).rejects.toMatchObject({ reason: 'STATE_FOREIGN' });
  });

  it('is one that was copied, even to where it was', async () => {
    await write('STARTED', 'COMMITTED');
    const copy = join(state, 'backup');
    copyFileSync(path(), copy);
    rmSync(path());
    writeFileSync(join(state, 'in-between'), '');
    renameSync(copy, path());
    expect((await only()).problem).toMatch(/^foreign: the inode of the journal was/);
  });

  it('is one that has the name of another migration', async () => {
    await write('STARTED');
    renameSync(path(), join(dirname(path()), 'other.source.log'));
    expect((await only()).problem).toContain(`its migration was ${MIGRATION} and is other`);
  });

  it('is not one whose host has booted again, whatever number its disk has now', async () => {
    const then = { ...HERE, fileSystemUuid: 'f1' };
    await (await new Journals({ folder, binding: then }).create(SUBJECT)).close();
    const now = { ...then, bootId: 'b2', device: '1' };
    const [file] = await new Journals({ folder, binding: now }).readAll();
    expect(file?.health).toBe('sound');
  });

  it('is sound again once a person has said so, and keeps what it said', async () => {
    await write('STARTED', 'COMMITTED');
    const elsewhere = new Journals({ folder, binding: { ...HERE, machineId: 'm2' } });
    await elsewhere.rebind(path());
    const [file] = await elsewhere.readAll();
    expect(file).toMatchObject({ health: 'sound', header: { binding: { machineId: 'm1' } } });
    expect(file?.entries.map(({ record }) => record)).toEqual(['STARTED', 'COMMITTED']);
    await using journal = await elsewhere.open(path());
    await journal.append('DONE');
    // And where it came from it is a stranger now.
    expect((await only()).health).toBe('foreign');
  });
});

describe('removing a journal', () => {
  it('is durable, takes the folder with the last one, and may be asked for twice', async () => {
    await write();
    await (await journals.create({ ...SUBJECT, side: 'destination' })).close();
    await journals.remove(path());
    expect(readdirSync(join(folder, DOMAIN))).toEqual([`${MIGRATION}.destination.log`]);
    files.done.length = 0;
    await journals.remove(path().replace('source', 'destination'));
    expect(files.done).toEqual(['unlink', 'syncDirectory', 'syncDirectory']);
    expect(readdirSync(folder)).toEqual([]);
    await journals.remove(path());
  });

  it('are read without harm where their records are sound and say odd things', () => {
    const header = {
      ...{ record: 'HEADER', version: 1, journalId: 'j', bootId: 'b', createTime: 't' },
      ...{
        ...SUBJECT,
        binding: { device: '1', inode: '2', journalDevice: '1', journalInode: '3' },
      },
    };
    const read = (first: object, ...rest: object[]) => {
      const lines = [first, ...rest].map(
        (fields, n) => encodeRecord(fields as LogFields, n, n).line,
      );
      const parsed = parseLog(Buffer.concat(lines));
      return judgeJournal('x', { ...parsed, device: '1', inode: '3' }, undefined);
    };
    for (const details of [undefined, null, [], 'text']) {
      expect(read({ ...header, details }).health).toBe('corrupt');
    }
    const version = { toString: 0 };
    expect(read({ ...header, version, details: {} }).problem).toContain('{"toString":0}');
    const odd = { ...header, details: { sourceJournalId: { toString: 0 } } };
    const { header: sound, entries } = read(
      odd,
      { record: 'MIRRORING', attempt: 0.5 },
      { record: 'constructor' },
    );
    const journal = { header: sound!, entries };
    expect(readPhase(journal)).toBe('mirror');
    expect(readAttempt(journal)).toBe(1);
    expect(headerAtDestination(journal).sourceJournalId).toBe('');
  });
});

import fc from 'fast-check';
import { judgeJournal } from '../../src/migration/journal-file.js';
import {
  readAttempt,
  readDestination,
  readEnd,
  readPaused,
  readPhase,
  readSource,
  readText,
} from '../../src/migration/journal-reading.js';
import { JOURNAL_RECORDS } from '../../src/migration/journal-records.js';
import { headerAtDestination, headerAtSource } from '../../src/migration/peer-header.js';
import { PHASES } from '../../src/migration/phase.js';
import { encodeRecord, type LogFields, parseLog } from '../../src/util/log-format.js';
import { nearCorpus } from './mutations.js';
import { must, target } from './target.js';

const PATH = '/state/journal/b/4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11.source.log';

const HEADER = {
  record: 'HEADER',
  version: 1,
  journalId: 'a',
  migrationId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11',
  side: 'source',
  domainUuid: 'b',
  domainName: 'web',
  sourceHost: 'alpha',
  destinationHost: 'beta',
  epoch: 1,
  generation: 1,
  attempt: 1,
  bootId: 'c',
  createTime: '2026-01-01T00:00:00.000Z',
  binding: { device: '1', inode: '2', journalDevice: '1', journalInode: '3' },
  details: { sourceJournalId: 'a' },
};

const AT = '2026-01-01T00:00:00.000Z';

function log(records: readonly LogFields[], zeros = 64): Buffer {
  const lines = records.map((fields, n) => encodeRecord(fields, n, Math.max(0, n - 1)).line);
  return Buffer.concat([...lines, Buffer.alloc(zeros)]);
}

const corpus = [
  log([HEADER, { record: 'STARTED', at: AT }, { record: 'DST_PREPARED', at: AT, attempt: 2 }]),
  log([
    { ...HEADER, side: 'destination' },
    { record: 'PREPARED', at: AT },
    { record: 'LOADED', at: AT, paused: true },
    { record: 'OWNED', at: AT },
    { record: 'ENDED', at: AT, state: 'COMPLETED', runningOn: 'beta' },
  ]),
  log([HEADER, ...Array.from({ length: 8 }, () => ({ record: 'MIRRORING', at: AT }))], 2048),
  Buffer.alloc(0),
];

const words = [
  ...[
    '\n',
    '\0',
    '\0'.repeat(512),
    '00000010 00000000 {',
    'ffffffff ',
    '0000001',
    ' {}\n',
    '"n":1',
  ],
  ...['00000002 a3fa1a4d {}\n', '"synced":99', '"__proto__":', '{"n":0,"synced":0}'],
];

const value = fc.oneof(
  fc.constantFrom<unknown>(
    ...Object.keys(JOURNAL_RECORDS),
    ...['HEADER', 'REBOUND', 'constructor', '__proto__', 'toString', 'source', 'destination', ''],
    ...[null, true, -1, 0.5, 2 ** 53, 1e300, [], {}, 'x'.repeat(5000)],
    HEADER.binding,
  ),
  fc.jsonValue({ maxDepth: 2 }),
);
const keys = fc.constantFrom(
  'record',
  'at',
  'n',
  'synced',
  'paused',
  'attempt',
  'epoch',
  ...[
    ...['generation', 'state', 'runningOn', 'failure', 'summary', 'binding', 'details', 'side'],
    ...['version', 'destinationJournalId', '__proto__', 'constructor', 'migrationId', 'domainUuid'],
  ],
);
const changes = fc.array(fc.tuple(keys, value), { maxLength: 3 });

/** Records whose CRC is right, and which no honest writer wrote. */
const weird = fc
  .tuple(
    changes,
    fc.array(fc.tuple(fc.constantFrom(...Object.keys(JOURNAL_RECORDS)), changes), {
      maxLength: 6,
    }),
  )
  .map(([first, rest]) =>
    log([
      { ...HEADER, ...Object.fromEntries(first) },
      ...rest.map(([record, own]) => ({ record, at: AT, ...Object.fromEntries(own) })),
    ]),
  );

/** The reader of journals, from the bytes to the states that decide who runs a guest. */
export const journal = target({
  name: 'journal',
  reads: 'journals, damaged or odd',
  inputs: fc.oneof(
    { weight: 3, arbitrary: nearCorpus(corpus, words) },
    { weight: 2, arbitrary: weird },
  ),
  check(data) {
    const parsed = parseLog(data);
    must(parsed.endBytes <= data.length, 'the end lies within the file');
    must(
      parsed.records.every(({ n }, index) => n === index),
      'records are numbered from 0',
    );
    must((parsed.tail === 'clean') === (parsed.problem === undefined), 'a bad tail has a problem');
    const again = parseLog(data.subarray(0, parsed.endBytes));
    must(again.records.length === parsed.records.length, 'the sound part reads alike by itself');
    must(again.tail === 'clean', 'the sound part is clean');
    const identity = { device: 1, inode: 3 };
    const read = { ...parsed, ...identity } as unknown as Parameters<typeof judgeJournal>[1];
    const judged = judgeJournal(PATH, read, { device: '1', inode: '2' } as never);
    const { header, entries } = judgeJournal(PATH, read, undefined);
    must(judged.health !== 'sound' || judged.header !== undefined, 'a sound journal has a header');
    if (!header) return;
    const whole = { header, entries };
    readSource(whole);
    readDestination(whole);
    const phase = readPhase(whole);
    must(phase === undefined || Object.hasOwn(PHASES, phase), 'a phase is one of the phases');
    must(typeof readPaused(whole) === 'boolean', 'paused is true or false');
    must(Number.isSafeInteger(readAttempt(whole)), 'an attempt is a whole number');
    must(typeof readText(whole, 'destinationJournalId') === 'string', 'a text is a text');
    readEnd(whole);
    headerAtSource(whole);
    headerAtDestination(whole);
  },
});

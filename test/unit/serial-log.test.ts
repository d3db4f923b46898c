import { once } from 'node:events';
import { appendFileSync, mkdirSync, renameSync, rmSync, watch, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SerialLog } from '../support/serial-log.js';

let folder: string;
let path: string;
const limit = { limitMs: 5000 };

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-serial-'));
  path = join(folder, 'serial.log');
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

const is = (wanted: string) => (line: string) => (line === wanted ? true : undefined);

test('a file that appears later is followed from its first byte', async () => {
  using log = SerialLog.file(path);
  const ready = log.waitForReady(limit);
  writeFileSync(path, 'first\nREA');
  appendFileSync(path, 'DY\nhalf');
  await ready;
  expect(log.lines.map(({ text }) => text)).toEqual(['first', 'READY']);
  expect(log.segments.at(-1)?.rest).toBe('half');
});

test('lines are stamped when they arrive', async () => {
  using log = SerialLog.file(path);
  writeFileSync(path, 'one\n');
  await log.waitFor('one', is('one'), limit);
  const before = performance.now();
  appendFileSync(path, 'two\n');
  await log.waitFor('two', is('two'), limit);
  const [one, two] = log.lines;
  expect(one?.atMs).toBeLessThanOrEqual(before);
  expect(two?.atMs).toBeGreaterThanOrEqual(before);
});

test('a cut ends the segment with all that was written until then', () => {
  writeFileSync(path, 'a\n');
  using log = SerialLog.file(path, 'source');
  appendFileSync(path, 'b\nhalf');
  const ended = log.cut();
  appendFileSync(path, ' whole\n');
  log.cut();
  expect(ended.lines.map(({ text }) => text)).toEqual(['a', 'b']);
  expect(ended.rest).toBe('half');
  expect(log.segments.map(({ lines }) => lines.map(({ text }) => text))).toEqual([
    ['a', 'b'],
    [' whole'],
  ]);
});

test('a file begun anew, or another one under its name, begins a segment', async () => {
  writeFileSync(path, 'a long first line\n');
  using log = SerialLog.file(path);
  writeFileSync(path, 'b\n');
  await log.waitFor('b', is('b'), limit);
  writeFileSync(`${path}.new`, 'c\n');
  renameSync(`${path}.new`, path);
  await log.waitFor('c', is('c'), limit);
  expect(log.segments.map(({ lines }) => lines.map(({ text }) => text))).toEqual([
    ['a long first line'],
    ['b'],
    ['c'],
  ]);
});

test('a stream is followed like a file', async () => {
  const stream = new PassThrough();
  using log = SerialLog.stream(stream, 'socket');
  const writes = log.waitForWrites(2, limit);
  stream.write('A 0 1\nA 0');
  stream.write(' 2\n');
  await writes;
  expect(log.lines.length).toBe(2);
});

test('waiting ends with an error that names what did not come', async () => {
  writeFileSync(path, 'something else\n');
  using log = SerialLog.file(path, 'source');
  await expect(log.waitForReady({ limitMs: 20 })).rejects.toThrow(
    'source: no READY in 20 ms, last: something else',
  );
});

test('waiting ends when the signal is aborted', async () => {
  using log = SerialLog.file(path);
  const controller = new AbortController();
  const waiting = log.waitForReady({ limitMs: 5000, signal: controller.signal });
  controller.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
});

test('a folder that goes with its file ends the following, and what was read stays', async () => {
  const inner = join(folder, 'domain');
  mkdirSync(inner);
  writeFileSync(join(inner, 'serial.log'), 'last\n');
  using log = SerialLog.file(join(inner, 'serial.log'));
  // Made after the log's own watch, so the log has heard of it first.
  const watcher = watch(join(inner, 'serial.log'));
  rmSync(inner, { recursive: true });
  for (let kind = ''; kind !== 'rename'; ) [kind] = (await once(watcher, 'change')) as [string];
  watcher.close();
  expect(log.lines.map(({ text }) => text)).toEqual(['last']);
  expect(log.cut().lines).toEqual([]);
});

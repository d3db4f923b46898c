import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { spreadOf, upperBoundOfZero } from '../../bench/statistics.js';
import { type LifeRecord, type MoveRecord, SoakRecord } from '../../scripts/soak/record.js';
import { summarize } from '../../scripts/soak/summary.js';

const SETTINGS = { domain: 'busy', perLife: 2 };

const move = (gapMs: number): MoveRecord => ({
  total_ms: 1000,
  downtime_us: { total: 50_000, settle: 1, ram: 2, load: 3, commit: 4, resume: 5, safety: 3 },
  qemu_downtime_ms: 20,
  guest_gap_ms: gapMs,
  transferred_bytes: 1024 ** 2,
});

const life = (...gapsMs: number[]): LifeRecord => ({
  kind: 'life',
  started_at: '2026-01-01T00:00:00.000Z',
  ended_at: '2026-01-01T00:01:00.000Z',
  moves: gapsMs.map(move),
  acked_writes: 100,
  heartbeats: 50,
  lost_writes: 0,
  repeats: 0,
  gaps: 0,
  faults: [],
  agent_rss_bytes: { alpha: 1024 ** 2, beta: 3 * 1024 ** 2 },
  load: 1,
});

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drover-soak-'));
  path = join(folder, 'lives.jsonl');
});
afterEach(() => rmSync(folder, { recursive: true }));

test('the spread of an even number of values has its median between the middle two', () => {
  expect(spreadOf([9, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 9 });
  expect(spreadOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3 });
  expect(() => spreadOf([])).toThrow(RangeError);
});

test('nothing in 300 moves proves less than one percent, and in 299 does not quite prove as much', () => {
  expect(upperBoundOfZero(300)).toBeCloseTo(0.00994, 5);
  expect(upperBoundOfZero(299)).toBeGreaterThan(upperBoundOfZero(300));
  expect(upperBoundOfZero(1)).toBeCloseTo(0.95);
});

test('an interrupted run goes on after the lives that were judged, and half a line does not count', () => {
  SoakRecord.open(path, SETTINGS).add(life(10, 20));
  appendFileSync(path, '{"kind":"life","mov');
  const again = SoakRecord.open(path, SETTINGS);
  expect(again.moves.map(({ guest_gap_ms }) => guest_gap_ms)).toEqual([10, 20]);
  again.add(life(30));
  expect(SoakRecord.open(path, SETTINGS).moves).toHaveLength(3);
});

test('a record of other settings is not gone on with', () => {
  SoakRecord.open(path, SETTINGS);
  expect(() => SoakRecord.open(path, { ...SETTINGS, perLife: 3 })).toThrow('--fresh');
});

test('the summary puts the bound beside every zero and beside nothing else', () => {
  const record = SoakRecord.open(path, SETTINGS);
  record.add(life(10, 20, 60));
  record.add({ kind: 'failure', at: '2026-01-01T00:02:00.000Z', reason: 'It broke.' });
  expect(summarize(record, { qemu: '10.0.2', perLife: 2 })).toMatchObject({
    moves: 3,
    failures: { count: 1, of_moves: 4 },
    failure_reasons: ['It broke.'],
    lost_writes: { count: 0, of_moves: 3, upper_bound_percent: 63.16 },
    guest_gap_ms: { median: 20, min: 10, max: 60 },
    agent_rss_mib: { median: 2, min: 1, max: 3 },
  });
  expect(summarize(record, { qemu: '10.0.2', perLife: 2 })).not.toHaveProperty(
    'failures.upper_bound_percent',
  );
});

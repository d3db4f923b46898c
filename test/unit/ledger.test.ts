import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readDisk, writeDisk } from '../support/blocks.js';
import { Ledger } from '../support/ledger.js';
import type { SerialSegment } from '../support/serial-log.js';

/** A segment whose lines arrive 10 ms apart; a text that ends without a newline has a rest. */
function segment(name: string, text: string, startMs = 0): SerialSegment {
  const parts = text.split('\n');
  const rest = parts.pop() ?? '';
  return { name, rest, lines: parts.map((part, i) => ({ text: part, atMs: startMs + i * 10 })) };
}

const START = 'D 0 vda 1000 1\nD 1 sda 1000 1\nREADY\n';

describe('a guest that moved well', () => {
  const ledger = new Ledger([
    segment('source', `${START}A 0 1\nA 1 1\nH 0 1000\nA 0 2\nH 1 11000\nA 0`),
    segment('destination', ' 3\nA 1 2\nH 2 22000\nR 0\nA 0 4\n', 500),
  ]);

  test('is clean, also when a line began on one side and ended on the other', () => {
    expect(ledger.describeFaults()).toBe('');
    expect(ledger.clean).toBe(true);
    expect(ledger.ackedWrites).toBe(6);
    expect(ledger.newestWrite(0)).toBe(4);
    expect(ledger.heartbeats).toBe(3);
  });

  test('shows the step between the sides by the clocks of host and guest', () => {
    expect(ledger.steps).toEqual([
      { between: ['source', 'destination'], hostGapMs: 520 - 70, guestGapMs: 11 },
    ]);
    expect(ledger.longestGapMs).toBe(450);
  });

  test('knows the disks as the guest described them', () => {
    expect(ledger.disks.get(1)).toEqual({ name: 'sda', slots: 0x1000 });
  });
});

describe('a guest that ran twice', () => {
  test('shows every write that both sides acknowledged', () => {
    const ledger = new Ledger([
      segment('source', 'A 0 1\nA 0 2\nA 0 3\n'),
      segment('destination', 'A 0 3\nA 0 4\n'),
    ]);
    expect(ledger.clean).toBe(false);
    expect(ledger.repeats).toEqual([
      { what: 'write', disk: 0, seq: 3, segments: ['source', 'destination'] },
    ]);
  });

  test('shows when the destination began behind where the source got', () => {
    const ledger = new Ledger([
      segment('source', 'A 0 5\nA 0 6\nA 0 7\n'),
      segment('destination', 'A 0 4\n'),
    ]);
    expect(ledger.repeats.map(({ seq }) => seq)).toEqual([4]);
  });

  test('shows repeated heartbeats even when nothing was written', () => {
    const ledger = new Ledger([
      segment('source', 'H 1 10000\nH 2 20000\n'),
      segment('destination', 'H 2 20000\nH 3 30000\n'),
    ]);
    expect(ledger.repeats).toEqual([
      { what: 'heartbeat', disk: 0, seq: 2, segments: ['source', 'destination'] },
    ]);
  });

  test('shows the same number on the way back', () => {
    const ledger = new Ledger([
      segment('a', 'A 0 1\n'),
      segment('b', 'A 0 2\n'),
      segment('a again', 'A 0 2\nA 0 3\n'),
    ]);
    expect(ledger.repeats.map(({ segments }) => segments)).toEqual([['b', 'a again']]);
  });
});

describe('a guest that lost state', () => {
  test('shows writes and heartbeats that were skipped, each disk for itself', () => {
    const ledger = new Ledger([
      segment('source', 'A 0 1\nA 1 1\nH 0 1\n'),
      segment('destination', 'A 0 3\nA 1 2\nH 4 2\n'),
    ]);
    expect(ledger.gaps).toEqual([
      { what: 'write', disk: 0, after: 1, next: 3 },
      { what: 'heartbeat', disk: 0, after: 0, next: 4 },
    ]);
    expect(ledger.clean).toBe(false);
  });

  test.each(['BAD RAM 1f 3', 'ERROR write 5', '[   4.1] Kernel panic - not syncing: Fatal', 'BAD'])(
    'says so itself: %s',
    (text) => {
      const ledger = new Ledger([segment('source', `A 0 1\n${text}\n`)]);
      expect(ledger.guestErrors).toEqual([text]);
      expect(ledger.clean).toBe(false);
    },
  );

  test('shows a line mixed up of two', () => {
    const ledger = new Ledger([segment('source', 'A 0 1A 1 1\n\n')]);
    expect(ledger.unexpectedLines).toEqual(['A 0 1A 1 1']);
    expect(ledger.clean).toBe(false);
  });
});

test('a guest that was started again goes on with the numbers of its disk', () => {
  const ledger = new Ledger([
    segment('a', 'D 0 vda 10 1\nREADY\nA 0 1\nH 0 5\nD 0 vda 10 3\nREADY\nA 0 3\nH 0 6\n'),
  ]);
  expect(ledger.describeFaults()).toBe('');
});

test('a guest without heartbeats is measured by its writes', () => {
  const ledger = new Ledger([
    segment('source', 'A 0 00000001\nA 0 00000002\n'),
    segment('destination', 'A 0 00000003\n', 60),
  ]);
  expect(ledger.steps).toEqual([
    { between: ['source', 'destination'], hostGapMs: 50, guestGapMs: undefined },
  ]);
});

describe('the disk that survived', () => {
  async function lost(acknowledged: number, written: readonly number[], slots = 4) {
    const folder = await mkdtemp(join(tmpdir(), 'drover-ledger-'));
    try {
      const text = Array.from({ length: acknowledged }, (_, i) => `A 0 ${(i + 1).toString(16)}\n`);
      const image = join(folder, 'disk.raw');
      await writeDisk(
        image,
        'linux',
        written.map((seq) => ({ disk: 0, seq })),
        slots,
      );
      const content = await readDisk(image, { guest: 'linux', slots });
      return new Ledger([segment('source', text.join(''))]).lostWrites(content);
    } finally {
      await rm(folder, { recursive: true });
    }
  }

  test('holds every acknowledged write, and may hold a later one', async () => {
    expect(await lost(6, [1, 2, 3, 4, 5, 6, 7])).toEqual([]);
  });

  test('lacks a write that was acknowledged when the slot holds an older one', async () => {
    expect(await lost(6, [1, 2, 3, 4, 5])).toEqual([
      { disk: 0, slot: 2, acknowledged: 6, found: 2 },
    ]);
  });

  test('lacks a write that was acknowledged when the slot is empty', async () => {
    expect(await lost(3, [1, 3])).toEqual([
      { disk: 0, slot: 2, acknowledged: 2, found: undefined },
    ]);
  });
});

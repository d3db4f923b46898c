import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  destinationStateOf,
  sourceStateOf,
  stepDestination,
  stepSource,
} from '../../src/migration/handover.js';
import {
  type DestinationEvent,
  type DestinationRecord,
  type DestinationState,
  destinationMayRun,
  outranks,
  type Rank,
  type SourceEvent,
  type SourceRecord,
  type SourceState,
  sourceMayRun,
} from '../../src/migration/handover-types.js';

/*
 * The rules one by one. That they hold together, whatever fails and in whatever order, is what the
 * explorer shows.
 */

const RANK: Rank = { epoch: 1, generation: 4 };
const THERE: Rank = { epoch: 1, generation: 5 };
const SAFE = { fenced: true, settled: true, voted: true };

const source = (record: SourceRecord, more: Partial<SourceState> = {}): SourceState => ({
  record,
  rank: RANK,
  held: false,
  ...more,
});
const destination = (
  record: DestinationRecord,
  more: Partial<DestinationState> = {},
): DestinationState => ({ record, rank: THERE, confirmed: false, ...more });
const typesOf = ({ effects }: { effects: readonly { type: string }[] }) =>
  effects.map(({ type }) => type);

describe('the source’s half', () => {
  it('gives the guest up only when everything it depends on has been read again', () => {
    const committed = stepSource(source('SWITCHING'), { type: 'loaded', guard: SAFE });
    expect(committed.effects).toEqual([
      { type: 'write', record: 'COMMITTED', rank: RANK },
      { type: 'send-commit' },
    ]);
    for (const missing of ['fenced', 'settled', 'voted']) {
      const guard = { ...SAFE, [missing]: false };
      expect(stepSource(source('SWITCHING'), { type: 'loaded', guard }).state.record, missing).toBe(
        'ABORTED',
      );
    }
  });

  it('lets the guest run until it has committed, and again only after a refusal', () => {
    expect(sourceMayRun(source('SWITCHING'))).toBe(true);
    expect(sourceMayRun(source('COMMITTED'))).toBe(false);
    expect(stepSource(source('COMMITTED'), { type: 'failed' }).state.record).toBe('COMMITTED');
    const reclaimed = stepSource(source('COMMITTED'), { type: 'refused' });
    expect(typesOf(reclaimed)).toEqual(['write', 'run-here']);
    expect(sourceMayRun(reclaimed.state)).toBe(true);
  });

  it('goes only when the guest runs on the destination, for its QEMU may still refuse it', () => {
    const hears = (record: DestinationRecord) =>
      stepSource(source('COMMITTED'), { type: 'peer', record, rank: THERE }).state.record;
    expect(hears('LOADED')).toBe('COMMITTED');
    expect(hears('OWNED')).toBe('COMMITTED');
    expect(hears('RUNNING')).toBe('DONE');
    expect(hears('ABORTED')).toBe('RECLAIMED');
  });

  it('goes on after a restart only where the guest runs and every mirror goes on', () => {
    const restarts = (record: SourceRecord, more: object = {}) =>
      stepSource(source(record), {
        type: 'restarted',
        qemu: 'running',
        sameBoot: true,
        mirrored: true,
        ...more,
      });
    expect(typesOf(restarts('DST_PREPARED'))).toEqual(['go-on']);
    expect(restarts('DST_PREPARED', { mirrored: false }).state.record).toBe('ABORTED');
    expect(restarts('DST_PREPARED', { qemu: 'switching' }).state.record).toBe('ABORTED');
    expect(restarts('SWITCHING').state.record).toBe('ABORTED');
    expect(typesOf(restarts('COMMITTED'))).toEqual(['send-commit']);
  });

  it('runs nothing after a new boot before the destination has answered', () => {
    const booted = stepSource(source('SWITCHING'), {
      type: 'restarted',
      qemu: 'gone',
      sameBoot: false,
      mirrored: false,
    });
    expect(sourceMayRun(booted.state)).toBe(false);
    expect(typesOf(booted)).toEqual(['send-abort']);
    const hears = (record: DestinationRecord) =>
      stepSource(booted.state, { type: 'peer', record, rank: THERE }).state;
    expect(sourceMayRun(hears('ABORTED'))).toBe(true);
    expect(hears('RUNNING').record).toBe('DONE');
    // Its own record of the commit is what the disk has lost.
    expect(hears('OWNED').record).toBe('COMMITTED');
  });

  it('does not take an old OWNED for more than the refusal that came after it', () => {
    const reclaimed = source('RECLAIMED');
    const stale = stepSource(reclaimed, { type: 'peer', record: 'OWNED', rank: THERE });
    expect(stale).toEqual({ state: reclaimed, effects: [] });
  });
});

describe('the destination’s half', () => {
  it('lets the guest run only after OWNED is written', () => {
    const owned = stepDestination(destination('LOADED'), { type: 'commit' });
    expect(owned.effects).toEqual([
      { type: 'write', record: 'OWNED', rank: THERE },
      { type: 'run-here' },
    ]);
    expect(destinationMayRun(destination('LOADED', { confirmed: true }))).toBe(false);
    expect(destinationMayRun(owned.state)).toBe(true);
  });

  it('refuses a commit for a guest that is not loaded, durably, and goes on refusing', () => {
    const refused = stepDestination(destination('PREPARED'), { type: 'commit' });
    expect(typesOf(refused)).toEqual(['write', 'discard', 'refuse']);
    const again = stepDestination(refused.state, { type: 'commit' });
    expect(again).toEqual({ state: refused.state, effects: [{ type: 'refuse' }] });
  });

  it('does not let an abort take an owned guest away', () => {
    for (const record of ['OWNED', 'RUNNING', 'SOURCE_GONE'] as const) {
      const state = destination(record);
      expect(stepDestination(state, { type: 'abort' })).toEqual({ state, effects: [] });
    }
  });

  it('asks after a restart before it starts anything, and not any more once the source is gone', () => {
    const restarted = (record: DestinationRecord) =>
      stepDestination(destinationStateOf(RANK, [{ record, rank: THERE }]), {
        type: 'restarted',
        qemu: 'gone',
      });
    for (const record of ['OWNED', 'RUNNING'] as const) {
      expect(typesOf(restarted(record))).toContain('ask-peer');
      expect(destinationMayRun(restarted(record).state)).toBe(false);
    }
    expect(destinationMayRun(restarted('SOURCE_GONE').state)).toBe(true);
  });

  it('believes a source that has given the guest up, and gives way to one that has taken it back', () => {
    const hears = (record: SourceRecord, rank = RANK) =>
      stepDestination(destination('OWNED'), { type: 'peer', record, rank });
    expect(destinationMayRun(hears('COMMITTED').state)).toBe(true);
    expect(destinationMayRun(hears('SWITCHING').state)).toBe(false);
    const raised = hears('RECLAIMED', { ...RANK, epoch: 2 });
    expect(typesOf(raised)).toEqual(['stand-down', 'write']);
  });
});

describe('a person’s word', () => {
  it('raises the epoch so that of two words one counts more', () => {
    const here = stepSource(source('COMMITTED'), { type: 'resolved', by: 'reclaim' }).state;
    const there = stepDestination(destination('OWNED'), { type: 'resolved', by: 'reclaim' }).state;
    expect(sourceMayRun(here) && destinationMayRun(there)).toBe(true);
    expect(outranks(there.rank, here.rank)).toBe(true);
    const heardHere = stepSource(here, { type: 'peer', record: 'OWNED', rank: there.rank });
    expect(heardHere.state.record).toBe('SUPERSEDED');
    const heardThere = stepDestination(there, {
      type: 'peer',
      record: 'RECLAIMED',
      rank: here.rank,
    });
    expect(heardThere.state).toEqual(there);
  });

  it('is asked about again after a restart, for another person may have said the opposite', () => {
    const { state } = stepSource(source('COMMITTED'), { type: 'resolved', by: 'reclaim' });
    const restarted = stepSource(sourceStateOf(RANK, [state]), {
      type: 'restarted',
      qemu: 'gone',
      sameBoot: true,
      mirrored: false,
    });
    expect(typesOf(restarted)).toEqual(['ask-peer']);
    expect(sourceMayRun(restarted.state)).toBe(false);
    const heard = stepSource(restarted.state, { type: 'peer', record: 'SUPERSEDED', rank: THERE });
    expect(sourceMayRun(heard.state)).toBe(true);
  });

  it('is not asked for where the journal decides', () => {
    for (const by of ['reclaim', 'relinquish'] as const) {
      const undecided = source('SWITCHING');
      expect(stepSource(undecided, { type: 'resolved', by }).state).toBe(undecided);
      const loaded = destination('LOADED');
      expect(stepDestination(loaded, { type: 'resolved', by }).state).toBe(loaded);
    }
  });
});

const SOURCE_RECORDS: readonly SourceRecord[] = [
  ...(['STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED', 'DONE'] as const),
  ...(['ABORTED', 'RECLAIMED', 'SUPERSEDED'] as const),
];
const DESTINATION_RECORDS: readonly DestinationRecord[] = [
  ...(['PREPARED', 'LOADED', 'OWNED', 'RUNNING', 'SOURCE_GONE'] as const),
  ...(['ABORTED', 'SUPERSEDED'] as const),
];
const ranks = fc.record({ epoch: fc.nat(4), generation: fc.nat(4) });
const by = fc.constantFrom('reclaim' as const, 'relinquish' as const);
const sourceEvents: fc.Arbitrary<SourceEvent> = fc.oneof(
  fc
    .constantFrom(...(['prepared', 'switching', 'failed', 'taken', 'refused'] as const))
    .map((type) => ({ type })),
  fc
    .record({ fenced: fc.boolean(), settled: fc.boolean(), voted: fc.boolean() })
    .map((guard) => ({ type: 'loaded' as const, guard })),
  fc.record({
    type: fc.constant('peer' as const),
    record: fc.constantFrom(...DESTINATION_RECORDS, 'NONE' as const),
    rank: ranks,
  }),
  by.map((word) => ({ type: 'resolved' as const, by: word })),
  fc.record({
    type: fc.constant('restarted' as const),
    qemu: fc.constantFrom(...(['running', 'switching', 'completed', 'gone'] as const)),
    sameBoot: fc.boolean(),
    mirrored: fc.boolean(),
  }),
);
const destinationEvents: fc.Arbitrary<DestinationEvent> = fc.oneof(
  fc
    .constantFrom(
      ...(['loaded', 'commit', 'resumed', 'never-ran', 'lost', 'abort', 'source-gone'] as const),
    )
    .map((type) => ({ type })),
  fc.record({
    type: fc.constant('peer' as const),
    record: fc.constantFrom(...SOURCE_RECORDS, 'NONE' as const),
    rank: ranks,
  }),
  by.map((word) => ({ type: 'resolved' as const, by: word })),
  fc.record({
    type: fc.constant('restarted' as const),
    qemu: fc.constantFrom(...(['waiting', 'loaded', 'running', 'gone'] as const)),
  }),
);
const sources = fc.record({
  record: fc.constantFrom(...SOURCE_RECORDS),
  rank: ranks,
  held: fc.boolean(),
});
const destinations = fc.record({
  record: fc.constantFrom(...DESTINATION_RECORDS),
  rank: ranks,
  confirmed: fc.boolean(),
});

describe('both halves', () => {
  it('write every new record before anything else, except that they stand down first', () => {
    const check = (
      before: SourceState | DestinationState,
      { state, effects }: ReturnType<typeof stepSource> | ReturnType<typeof stepDestination>,
    ) => {
      const same = state.record === before.record && state.rank.epoch === before.rank.epoch;
      const at = effects.findIndex(({ type }) => type === 'write');
      if (!same) expect(effects[at]).toMatchObject({ record: state.record, rank: state.rank });
      for (const { type } of effects.slice(0, Math.max(at, 0))) expect(type).toBe('stand-down');
    };
    fc.assert(fc.property(sources, sourceEvents, (a, b) => check(a, stepSource(a, b))));
    fc.assert(
      fc.property(destinations, destinationEvents, (a, b) => check(a, stepDestination(a, b))),
    );
  });

  it('never lower an epoch', () => {
    fc.assert(
      fc.property(sources, sourceEvents, (before, event) => {
        const { state } = stepSource(before, event);
        expect(state.rank.epoch).toBeGreaterThanOrEqual(before.rank.epoch);
      }),
    );
    fc.assert(
      fc.property(destinations, destinationEvents, (before, event) => {
        const { state } = stepDestination(before, event);
        expect(state.rank.epoch).toBeGreaterThanOrEqual(before.rank.epoch);
      }),
    );
  });

  it('take the last record of a journal for their state', () => {
    expect(sourceStateOf(RANK, [])).toEqual(source('STARTED'));
    expect(destinationStateOf(RANK, [])).toEqual(destination('PREPARED'));
    const written = [source('COMMITTED'), source('RECLAIMED')];
    expect(sourceStateOf(RANK, written)).toEqual(source('RECLAIMED'));
  });
});

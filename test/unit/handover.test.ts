import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type DestinationEvent,
  type DestinationRecord,
  destinationMayRun,
  type SourceEvent,
  type SourceRecord,
  sourceMayRun,
  stepDestination,
  stepSource,
} from '../../src/migration/handover.js';

const sourceEvents: SourceEvent['type'][] = ['loaded', 'failed', 'taken', 'refused'];
const destinationEvents: DestinationEvent['type'][] = [
  'loaded',
  'commit',
  'resumed',
  'never-ran',
  'abort',
];

describe('the handover', () => {
  it('lets the source run the guest until it has committed, and again only after a refusal', () => {
    const committed = stepSource('STARTED', { type: 'loaded' });
    expect(committed.effects).toEqual([
      { type: 'write', record: 'COMMITTED' },
      { type: 'send-commit' },
    ]);
    expect(sourceMayRun('STARTED')).toBe(true);
    expect(sourceMayRun(committed.state)).toBe(false);
    const reclaimed = stepSource(committed.state, { type: 'refused' });
    expect(reclaimed.state).toBe('RECLAIMED');
    expect(sourceMayRun(reclaimed.state)).toBe(true);
  });

  it('never lets the source take back by itself what it has committed', () => {
    expect(stepSource('COMMITTED', { type: 'failed' })).toEqual({
      state: 'COMMITTED',
      effects: [],
    });
  });

  it('lets the destination run the guest only after OWNED is written', () => {
    const owned = stepDestination('LOADED', { type: 'commit' });
    expect(owned.effects[0]).toEqual({ type: 'write', record: 'OWNED' });
    expect(owned.effects.findIndex((effect) => effect.type === 'run-here')).toBeGreaterThan(0);
  });

  it('refuses a commit for a guest that is not loaded, and goes on refusing', () => {
    const refused = stepDestination('PREPARED', { type: 'commit' });
    expect(refused.state).toBe('ABORTED');
    expect(refused.effects).toContainEqual({ type: 'refuse' });
    const again = stepDestination(refused.state, { type: 'commit' });
    expect(again).toEqual({ state: 'ABORTED', effects: [{ type: 'refuse' }] });
  });

  it('does not let an abort take an owned guest away', () => {
    for (const state of ['OWNED', 'RUNNING'] as const) {
      expect(stepDestination(state, { type: 'abort' })).toEqual({ state, effects: [] });
    }
  });

  it('writes before everything else that follows from an event', () => {
    const sources: SourceRecord[] = ['STARTED', 'COMMITTED', 'RECLAIMED', 'DONE', 'ABORTED'];
    for (const state of sources) {
      for (const type of sourceEvents) {
        const { effects, state: next } = stepSource(state, { type });
        if (next !== state) expect(effects[0]).toEqual({ type: 'write', record: next });
      }
    }
  });

  it('never lets both sides run, whatever order the calls between them arrive in', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('commit', 'abort', 'own-event'), { maxLength: 20 }),
        fc.infiniteStream(fc.nat()),
        (calls, dice) => {
          let source: SourceRecord = 'STARTED';
          let destination: DestinationRecord = 'PREPARED';
          const roll = (n: number) => (dice.next().value as number) % n;
          for (const call of calls) {
            if (call === 'own-event') {
              // What a sound agent can learn by itself at this moment.
              if (roll(2) === 0) {
                const possible: DestinationEvent['type'][] =
                  destination === 'OWNED' ? ['resumed', 'never-ran'] : ['loaded', 'abort'];
                const type = possible[roll(possible.length)] ?? 'abort';
                destination = stepDestination(destination, { type }).state;
              } else if (source === 'STARTED') {
                const type = destination === 'LOADED' && roll(2) === 0 ? 'loaded' : 'failed';
                source = stepSource(source, { type }).state;
              }
            } else if (call === 'abort') {
              if (source === 'ABORTED')
                destination = stepDestination(destination, { type: 'abort' }).state;
            } else if (source === 'COMMITTED') {
              const { state, effects } = stepDestination(destination, { type: 'commit' });
              destination = state;
              const answered = roll(2) === 0;
              if (answered && effects.some((effect) => effect.type === 'refuse')) {
                source = stepSource(source, { type: 'refused' }).state;
              } else if (answered && destination === 'RUNNING') {
                source = stepSource(source, { type: 'taken' }).state;
              }
            }
            expect(sourceMayRun(source) && destinationMayRun(destination)).toBe(false);
          }
        },
      ),
    );
  });

  it('ignores events that come twice', () => {
    for (const type of sourceEvents) {
      const once = stepSource('STARTED', { type }).state;
      expect(stepSource(once, { type }).state).toBe(once);
    }
    for (const type of destinationEvents) {
      const once = stepDestination('LOADED', { type }).state;
      expect(stepDestination(once, { type }).state).toBe(once);
    }
  });
});

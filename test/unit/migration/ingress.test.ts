import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Ingress } from '../../../src/migration/ingress.js';

const MIB = 1024 ** 2;
const BUDGET = 100 * MIB;

/** A destination whose clock stands still unless it is set. */
function stage(ingressBytesPerS = BUDGET, ramPhases = 1) {
  const clock = { now: 1, nowMs: () => clock.now };
  const ingress = new Ingress({ ingressBytesPerS, ramPhases }, clock);
  const gone = new Set<string>();
  const ask = (id: string, wantRamTurn = false, weight = 10) =>
    ingress.ask(id, { weight, wantRamTurn }, () => !gone.has(id));
  return { clock, ask, gone };
}

describe('the ingress of a destination', () => {
  it('is all of it for one alone, and not limited where nobody has said what it is', () => {
    expect(stage().ask('a')).toEqual({ bytesPerS: BUDGET, ramTurn: false, validMs: 2_000 });
    expect(stage(0).ask('a').bytesPerS).toBe(0);
  });

  it('is divided by weight among those who ask', () => {
    const { ask } = stage();
    for (let times = 0; times < 2; times++) {
      ask('a', false, 30);
      ask('b', false, 10);
    }
    expect(ask('a', false, 30).bytesPerS).toBe(75 * MIB);
    expect(ask('b', false, 10).bytesPerS).toBe(25 * MIB);
  });

  it('goes back to the others when one has not asked for two seconds, or is here', () => {
    const { clock, ask, gone } = stage();
    for (const id of ['a', 'b', 'a', 'b']) ask(id);
    expect(ask('a').bytesPerS).toBe(BUDGET / 2);
    clock.now += 1_500;
    ask('a');
    clock.now += 1_000;
    expect(ask('a').bytesPerS).toBe(BUDGET);
    ask('b');
    gone.add('a');
    expect(ask('b').bytesPerS).toBe(BUDGET);
  });

  it('is never promised beyond what it is, whoever asks when', () => {
    const step = fc.record({
      id: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      weight: fc.integer({ min: 1, max: 100 }),
      wantRamTurn: fc.boolean(),
      waitMs: fc.integer({ min: 0, max: 900 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { clock, ask } = stage();
        const given = new Map<string, { bytesPerS: number; untilMs: number }>();
        for (const { id, weight, wantRamTurn, waitMs } of steps) {
          clock.now += waitMs;
          const { bytesPerS, validMs } = ask(id, wantRamTurn, weight);
          given.set(id, { bytesPerS, untilMs: clock.now + validMs });
          const valid = [...given.values()].filter(({ untilMs }) => untilMs >= clock.now);
          const total = valid.reduce((sum, one) => sum + one.bytesPerS, 0);
          // One byte each is the least, because 0 would be no limit.
          expect(total).toBeLessThanOrEqual(BUDGET + given.size);
        }
      }),
    );
  });
});

describe('turns at a destination', () => {
  it('are one at a time, and go to who has waited longest', () => {
    const { clock, ask, gone } = stage();
    expect(ask('a', true).ramTurn).toBe(true);
    expect(ask('b', true).ramTurn).toBe(false);
    clock.now += 100;
    expect(ask('c', true).ramTurn).toBe(false);
    gone.add('a');
    expect(ask('c', true).ramTurn).toBe(false);
    expect(ask('b', true)).toMatchObject({ ramTurn: true, validMs: 5_000 });
    expect(ask('b', true).ramTurn).toBe(true);
    ask('b', false);
    expect(ask('c', true).ramTurn).toBe(true);
  });

  it('are as many as there are slots', () => {
    const { ask } = stage(0, 2);
    expect(['a', 'b', 'c'].map((id) => ask(id, true).ramTurn)).toEqual([true, true, false]);
  });

  it('outlive a switchover without questions, and end with a source that is gone', () => {
    const { clock, ask } = stage();
    ask('a', true);
    const wait = (ms: number) => {
      for (let waited = 0; waited < ms; waited += 500) {
        clock.now += 500;
        ask('b', true);
      }
      return ask('b', true).ramTurn;
    };
    expect(wait(4_500)).toBe(false);
    expect(wait(1_000)).toBe(true);
  });

  it('end after two minutes where another one waits, and are not given back at once', () => {
    const { clock, ask } = stage();
    const both = () => [ask('a', true).ramTurn, ask('b', true).ramTurn];
    for (let seconds = 0; seconds < 120; seconds++) {
      expect(both()).toEqual([true, false]);
      clock.now += 1_000;
    }
    clock.now += 1_000;
    ask('a', true);
    expect(both()).toEqual([false, true]);
    ask('a', false);
    ask('b', false);
    expect(both()).toEqual([true, false]);
  });

  it('leave those who wait a part of the budget, and the rest to the RAM', () => {
    const { ask } = stage();
    for (let times = 0; times < 3; times++) {
      ask('a', true);
      ask('b');
    }
    expect(ask('a', true).bytesPerS).toBe(97.5 * MIB);
    expect(ask('b').bytesPerS).toBe(2.5 * MIB);
  });
});

import { afterEach, expect, test, vi } from 'vitest';
import { EventClock } from '../../../src/domain/event-clock.js';
import { systemClock } from '../../../src/util/clock.js';

afterEach(() => vi.restoreAllMocks());

test('an event of now is now, to well under a millisecond', () => {
  const clock = new EventClock();
  // The wall clock has whole milliseconds: of many looks at it, one is right after its tick.
  const differences = Array.from({ length: 10_000 }, () => {
    const now = Date.now();
    return clock.toClockUs(now * 1000) - systemClock.nowUs();
  });
  expect(Math.abs(Math.max(...differences))).toBeLessThan(500);
});

test('when the wall clock is set, an event of now is still now, to a millisecond', () => {
  const clock = new EventClock();
  const real = Date.now;
  vi.spyOn(Date, 'now').mockImplementation(() => real() + 3_600_000);
  const difference = clock.toClockUs(Date.now() * 1000) - systemClock.nowUs();
  expect(Math.abs(difference)).toBeLessThan(2000);
});

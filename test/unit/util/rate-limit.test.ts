import { describe, expect, it } from 'vitest';
import { RateLimit } from '../../../src/util/rate-limit.js';

const OPTIONS = { perKey: 3, windowMs: 1_000, keys: 10 };

describe('a limit of rates', () => {
  it('lets the first few of a key through, and counts the others', () => {
    const limit = new RateLimit<string>(OPTIONS);
    const taken = Array.from({ length: 5 }, (_, i) => limit.take('a', `a${i}`, i));
    expect(taken).toEqual([true, true, true, false, false]);
    expect(limit.take('b', 'b0', 5)).toBe(true);
    expect(limit.sweep(999)).toEqual([]);
    expect(limit.sweep(1_000)).toEqual([{ sample: 'a0', count: 2 }]);
    expect(limit.take('a', 'again', 1_001)).toBe(true);
  });

  it('treats all keys beyond those it can tell apart as one, so that its memory is bounded', () => {
    const limit = new RateLimit<number>(OPTIONS);
    let taken = 0;
    for (let i = 0; i < 100_000; i++) if (limit.take(`key ${i}`, i, 0)) taken++;
    expect(taken).toBe(10 + 3);
    expect(limit.sweep(2_000)).toEqual([{ sample: 10, count: 100_000 - 10 - 3 }]);
  });
});

import { describe, expect, it } from 'vitest';
import { fuzz } from '../fuzz/run.js';
import { targets } from '../fuzz/targets.js';

/** A slice of `npm run test:fuzz`, with another seed each time. */
const INPUTS = 600;
const seed = Date.now() % 2 ** 30;

describe(`every parser of what others write, with the seed ${seed}`, () => {
  it.each(targets)('$name: answers or refuses $reads, and does so soon', (target) => {
    const { failure, inputs } = fuzz(target, { inputs: INPUTS, seed, limitMs: 200, batch: INPUTS });
    expect(failure).toBeUndefined();
    expect(inputs).toBe(INPUTS);
  });

  it('finds what is wrong, and says how to see it again', () => {
    const careless = {
      ...targets[0]!,
      check: (input: unknown) => {
        const [bytes] = input as [Buffer];
        if (bytes.includes('QMP')) throw new Error('a greeting');
      },
    };
    const { failure } = fuzz(careless, { inputs: INPUTS, seed: 1, limitMs: 200, batch: INPUTS });
    expect(failure).toMatch(/--target qmp --seed 1[\s\S]*a greeting/);
  });

  it('finds what takes too long', () => {
    const slow = {
      ...targets[0]!,
      check: () => {
        const end = process.cpuUsage().user + 30_000;
        while (process.cpuUsage().user < end);
      },
    };
    const { failure } = fuzz(slow, { inputs: 1, seed: 1, limitMs: 10, batch: 1 });
    expect(failure).toContain('10 ms are allowed');
  });
});

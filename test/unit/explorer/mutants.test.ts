import { afterAll, describe, expect, it } from 'vitest';
import { describeExploration, explore } from './explore.js';
import { MUTANTS } from './mutants.js';
import { COMMITTING, SCENARIOS } from './scenarios.js';

const total = { mutants: 0, seconds: 0 };

afterAll(() => {
  const { mutants, seconds } = total;
  console.log(`${mutants} of ${MUTANTS.length} mutants caught, ${seconds.toFixed(1)} s`);
});

describe('the explorer', () => {
  it.each(MUTANTS)(
    'notices when $name ($caughtBy)',
    ({ name, scenario, caughtBy, late, change }) => {
      const { flaws = [], ...rest } = change;
      const after = late ? COMMITTING : [];
      const found = explore({ ...SCENARIOS[scenario], after, ...rest, flaws: new Set(flaws) });
      total.seconds += found.seconds;
      expect(found.invariant, describeExploration(name, found)).toBe(caughtBy);
      total.mutants += 1;
    },
    60_000,
  );
});

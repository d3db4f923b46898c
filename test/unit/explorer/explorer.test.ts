import { afterAll, describe, expect, it } from 'vitest';
import { describeExploration, explore } from './explore.js';
import { SCENARIOS, type ScenarioName } from './scenarios.js';

/*
 * The reducer that the agents run, driven through every order of events, messages, crashes and power
 * losses that a scenario allows. DROVER_EXPLORE=deep adds a fault to the longest scenarios.
 */

const deep = process.env['DROVER_EXPLORE'] === 'deep';
const lines: string[] = [];
const reached = new Set<string>();
const total = { states: 0, seconds: 0 };

afterAll(() => {
  lines.push(`handover explored: ${total.states} states, ${total.seconds.toFixed(1)} s`);
  console.log(lines.join('\n'));
});

describe('the handover, explored', () => {
  it.each(Object.keys(SCENARIOS) as ScenarioName[])(
    'holds in every world: %s',
    (name) => {
      const { faults } = SCENARIOS[name];
      const rules = { ...SCENARIOS[name], faults: deep ? Math.max(faults, 2) : faults };
      const found = explore(rules);
      const text = describeExploration(`${name} (faults <= ${rules.faults})`, found);
      for (const record of found.records) reached.add(record);
      lines.push(text);
      total.states += found.states;
      total.seconds += found.seconds;
      expect(found.invariant, text).toBeUndefined();
    },
    120_000,
  );

  it('has come to every record of both journals', () => {
    expect([...reached].sort()).toEqual(
      [
        ...['DST_PREPARED', 'SWITCHING', 'COMMITTED', 'DONE', 'ABORTED', 'RECLAIMED'],
        ...['LOADED', 'OWNED', 'RUNNING', 'SOURCE_GONE', 'SUPERSEDED'],
      ].sort(),
    );
  });
});

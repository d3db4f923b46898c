import { expect, test } from 'vitest';
import { compareRounds } from '../../bench/report/compare.js';
import { type Goal, judgeGoal, readGoals } from '../../bench/report/goals.js';
import type { MoverResult, Results, ScenarioResult } from '../../bench/report/results.js';
import { roundsOf } from '../../bench/run.js';
import { SCENARIOS } from '../../bench/scenarios.js';

function moverOf(metric: 'totalS' | 'gapMs', values: readonly number[]): MoverResult {
  const sorted = [...values].sort((one, other) => one - other);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  return {
    failures: [],
    spreads: { [metric]: { median, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 } },
    turns: values.map((value, index) => ({
      ...{ round: index + 1, load: 1, foreign: 0, metrics: { [metric]: value } },
    })),
  };
}

function scenarioOf(movers: ScenarioResult['movers'], name = 'idle'): ScenarioResult {
  return { name, title: name, link: { bitsPerS: 1e9, delayMs: 0 }, guests: 1, movers };
}

function resultsOf(...scenarios: ScenarioResult[]): Results {
  const spread = { median: 1, min: 1, max: 1 };
  return {
    ...{ date: '', command: '', drover: '', qemu: '', libvirt: '', accelerator: 'tcg' },
    ...{ machine: '', method: [], load_average: spread, turns_with_foreign_load: 0 },
    ...{ acked_writes: 0, faults: [], scenarios },
  };
}

const TOTAL: Goal = {
  ...{ goal: 'total', scenarios: ['*'], metric: 'totalS', movers: ['direct'], against: ['floor'] },
  atMost: 1.03,
};

test('a ratio is made within a round, and the median of those counts', () => {
  // The machine was slow in the second round, for both.
  const scenario = scenarioOf({
    direct: moverOf('totalS', [2, 20, 3]),
    floor: moverOf('totalS', [1, 10, 2]),
  });
  const comparison = { metric: 'totalS', mover: 'direct', against: 'floor', as: 'ratio' } as const;
  expect(compareRounds(scenario, comparison)).toEqual({ median: 2, min: 1.5, max: 2 });
});

test('a round that one of the two did not finish does not count', () => {
  const scenario = scenarioOf({
    direct: moverOf('totalS', [2, 3]),
    floor: moverOf('totalS', [1]),
  });
  const comparison = { metric: 'totalS', mover: 'direct', against: 'floor', as: 'ratio' } as const;
  expect(compareRounds(scenario, comparison)).toEqual({ median: 2, min: 2, max: 2 });
});

test('a goal is met when it holds in every scenario, and names the worst', () => {
  const floor = moverOf('totalS', [1]);
  const good = scenarioOf({ direct: moverOf('totalS', [1.01]), floor });
  const bad = scenarioOf({ direct: moverOf('totalS', [1.2]), floor }, 'ram-50');
  expect(judgeGoal(TOTAL, resultsOf(good))).toMatchObject({ met: true, missed: 0, checked: 1 });
  const result = judgeGoal(TOTAL, resultsOf(good, bad));
  expect(result).toMatchObject({ met: false, missed: 1, checked: 2 });
  expect(result.worst?.what).toContain('ram-50');
});

test('a goal without data is missed', () => {
  expect(judgeGoal(TOTAL, resultsOf())).toMatchObject({ met: false, worst: undefined });
  const named = { ...TOTAL, scenarios: ['idle', 'sparse'] };
  const idle = scenarioOf({ direct: moverOf('totalS', [1]), floor: moverOf('totalS', [1]) });
  expect(judgeGoal(named, resultsOf(idle))).toMatchObject({ met: false, missed: 1, checked: 2 });
});

test('a goal may be about a difference, or about another scenario of the same mover', () => {
  const one = scenarioOf({ direct: moverOf('gapMs', [50]), floor: moverOf('gapMs', [45]) });
  const eight = scenarioOf({ direct: moverOf('gapMs', [70]) }, 'together-8');
  const gap = { ...TOTAL, metric: 'gapMs', scenarios: ['idle'] } as const;
  const difference = { ...gap, as: 'difference', atMost: 10 } as const;
  expect(judgeGoal(difference, resultsOf(one)).worst?.value).toBe(5);
  const { against: _, ...alone } = gap;
  const many = { ...alone, scenarios: ['together-8'], againstScenario: 'idle', atMost: 1.5 };
  expect(judgeGoal(many, resultsOf(one, eight))).toMatchObject({ met: true });
  expect(judgeGoal(many, resultsOf(one, eight)).worst?.value).toBeCloseTo(1.4);
});

test('every goal names scenarios and movers that are run', () => {
  for (const { scenarios, movers, against = [], elsewhere } of readGoals()) {
    for (const name of scenarios.filter((each) => each !== '*')) {
      const scenario = SCENARIOS.find((each) => each.name === name);
      expect(scenario?.movers, name).toEqual(expect.arrayContaining([...movers, ...against]));
    }
    expect(scenarios.length > 0 || elsewhere !== undefined).toBe(true);
  }
});

test('pairs are run more often than the rest, but not in a short run', () => {
  const idle = SCENARIOS.find(({ name }) => name === 'idle');
  if (!idle) throw new Error('There is no idle scenario.');
  expect([roundsOf(idle, 7)('direct'), roundsOf(idle, 7)('naive')]).toEqual([15, 7]);
  expect([roundsOf(idle, 2)('direct'), roundsOf(idle, 2)('naive')]).toEqual([2, 2]);
});

import { expect, test } from 'vitest';
import { plannedDowntimeMs } from '../../../src/domain/downtime-ladder.js';

const passes = [1, 2, 3, 4, 5, 6, 7, 50];

test('the downtime begins short and doubles with every pass that was not enough, up to the limit', () => {
  expect(passes.map((pass) => plannedDowntimeMs(pass, 300))).toEqual([
    30, 30, 30, 60, 120, 240, 300, 300,
  ]);
});

test('a limit below the first step holds from the beginning', () => {
  expect(passes.map((pass) => plannedDowntimeMs(pass, 10))).toEqual(passes.map(() => 10));
});

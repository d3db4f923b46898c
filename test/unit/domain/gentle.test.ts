import { expect, test } from 'vitest';
import {
  GENTLE_FIRST_BYTES_PER_S,
  GENTLE_FLOOR_BYTES_PER_S,
  GentleControl,
} from '../../../src/domain/gentle.js';

const MIB = 1024 ** 2;
const load = (operationsPerSecond: number, latencyNs: number) => ({
  bytesPerSecond: operationsPerSecond * 4096,
  operationsPerSecond,
  latencyNs,
});
const before = load(1000, 1e6);

/** The limits over some looks, in MiB per second. */
function looks(
  count: number,
  now: ReturnType<typeof load>,
  copied: number,
  control: GentleControl,
) {
  return Array.from({ length: count }, () => control.next(now, copied) / MIB);
}

test('mirrors begin slowly and speed up quickly while a guest does what it did before', () => {
  const control = new GentleControl(before);
  expect(control.limit).toBe(GENTLE_FIRST_BYTES_PER_S);
  expect(looks(3, load(950, 1.05e6), 100 * MIB, control)).toEqual([48, 72, 108]);
});

test('mirrors slow down as long as the guest suffers, down to a floor', () => {
  const control = new GentleControl(before);
  const limits = looks(20, load(500, 2e6), 100 * MIB, control);
  expect(limits[0]).toBeCloseTo(22.4, 1);
  expect(limits[1]).toBeCloseTo(15.7, 1);
  expect(limits.at(-1)).toBe(GENTLE_FLOOR_BYTES_PER_S / MIB);
});

test('they speed up again when it suffers no more, slowly, and use what they get', () => {
  const control = new GentleControl(before);
  control.next(load(500, 2e6), 32 * MIB);
  const [first] = looks(1, before, 22 * MIB, control);
  expect(first).toBeCloseTo(24.6, 1);
  expect(looks(1, before, 1 * MIB, control)[0]).toBe(first);
});

test('a guest that writes less, but as quickly as before, does not suffer', () => {
  const control = new GentleControl(before);
  expect(looks(2, load(100, 1e6), 100 * MIB, control)).toEqual([48, 72]);
});

test('one that gets nothing done suffers, until it is clear that it wants nothing', () => {
  const control = new GentleControl(before);
  const limits = looks(8, load(0, 0), 100 * MIB, control);
  expect(limits[3]).toBeLessThan(8);
  expect(limits.at(-1)).toBeGreaterThan(limits[3] ?? 0);
});

test('nothing is known of a guest that was idle before', () => {
  const control = new GentleControl(load(0, 0));
  expect(control.limit).toBe(0);
  expect(looks(2, load(10, 9e9), 100 * MIB, control)).toEqual([0, 0]);
});

import { expect, test } from 'vitest';
import { Convergence } from '../../../src/domain/mirror-convergence.js';

const MIB = 1024 ** 2;

interface Second {
  readonly copied: number;
  readonly written: number;
  readonly ready?: boolean;
}

/** After how many seconds a mirror is found to be stuck, if ever. */
function stuckAfter(leftMiB: number, seconds: readonly Second[]): number | undefined {
  const convergence = new Convergence(1024 * MIB);
  let remainingBytes = leftMiB * MIB;
  let copiedBytes = 0;
  convergence.stuck({ atMs: 0, ready: false, remainingBytes, copiedBytes });
  for (const [index, { copied, written, ready = false }] of seconds.entries()) {
    copiedBytes += copied * MIB;
    remainingBytes = Math.max(0, remainingBytes + (written - copied) * MIB);
    const mark = { atMs: (index + 1) * 1000, ready, remainingBytes, copiedBytes };
    if (convergence.stuck(mark)) return index + 1;
  }
  return undefined;
}

const times = (count: number, second: Second) => Array.from({ length: count }, () => second);

test('a mirror that gets nearer is left alone, however slowly it copies', () => {
  expect(stuckAfter(1000, times(60, { copied: 10, written: 5 }))).toBeUndefined();
});

test('one that copies no more than is written anew is stuck after some seconds', () => {
  expect(stuckAfter(500, times(60, { copied: 10, written: 10 }))).toBe(5);
  expect(stuckAfter(500, times(60, { copied: 10, written: 9.5 }))).toBe(5);
});

test('one that has little left gets less time', () => {
  expect(stuckAfter(8, times(60, { copied: 10, written: 10 }))).toBe(1);
});

test('one that waits for its turn is not stuck', () => {
  expect(stuckAfter(500, times(60, { copied: 0, written: 0 }))).toBeUndefined();
});

test('a ready one may copy what is written, but must not fall behind', () => {
  expect(stuckAfter(0, times(60, { copied: 10, written: 10, ready: true }))).toBeUndefined();
  expect(stuckAfter(0, times(60, { copied: 10, written: 20, ready: true }))).toBe(7);
});

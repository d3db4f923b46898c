import { describe, expect, test } from 'vitest';
import { versionProblems } from '../../../src/process/known-bad.js';

const codes = (major: number, minor: number, micro: number) =>
  versionProblems({ major, minor, micro }).map(({ code }) => code);

describe('versions of QEMU', () => {
  test.each([
    [9, 1, 0],
    [10, 0, 2],
    [11, 1, 3],
  ])('%i.%i.%i is taken', (major, minor, micro) => {
    expect(codes(major, minor, micro)).toEqual([]);
  });

  test('below the floor is refused', () => {
    expect(codes(9, 0, 9)).toEqual(['QEMU_TOO_OLD']);
    expect(codes(8, 2, 0)).toEqual(['QEMU_TOO_OLD']);
  });

  test('one that is known to lose data says so besides', () => {
    const problems = versionProblems({ major: 7, minor: 2, micro: 22 });
    expect(problems.map(({ code }) => code)).toEqual([
      'QEMU_TOO_OLD',
      'QEMU_KNOWN_BAD',
      'QEMU_KNOWN_BAD',
    ]);
    expect(problems.map(({ message }) => message).join()).toContain('QEMU 7.2.22');
  });
});

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../../src/util/bytes.js';

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['512', 512],
    ['64MiB', 64 * 1024 ** 2],
    ['64 MiB', 64 * 1024 ** 2],
    ['1G', 1024 ** 3],
    ['1.5G', 1.5 * 1024 ** 3],
    ['2T', 2 * 1024 ** 4],
    ['7B', 7],
  ])('reads %s', (text, sizeBytes) => {
    expect(parseSize(text)).toBe(sizeBytes);
  });

  test.each(['', '1Gb', '1GB', '1 gib', '-1', '1e3', '0.3', '1.2.3', '9999999P', 'MiB', '1kB'])(
    'refuses "%s"',
    (text) => {
      expect(() => parseSize(text)).toThrow(RangeError);
    },
  );

  test('whole KiB survive being written in bytes and read again', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (kibibytes) => {
        expect(parseSize(`${kibibytes}K`)).toBe(kibibytes * 1024);
        expect(parseSize(String(kibibytes))).toBe(kibibytes);
      }),
    );
  });

  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536 * 1024 ** 2, '1.5 GiB'],
    [12.34 * 1024 ** 2, '12.3 MiB'],
  ])('writes %d as %s', (sizeBytes, text) => {
    expect(formatSize(sizeBytes)).toBe(text);
  });
});

describe('durations', () => {
  test.each([
    ['300ms', 300],
    ['5 s', 5000],
    ['1.5s', 1500],
    ['5m', 300_000],
    ['1h', 3_600_000],
  ])('reads %s', (text, durationMs) => {
    expect(parseDuration(text)).toBe(durationMs);
  });

  test.each(['', '300', '5S', '-1s', '0.1ms', '1 day'])('refuses "%s"', (text) => {
    expect(() => parseDuration(text)).toThrow(RangeError);
  });

  test.each([
    [0.5, '0.5 ms'],
    [850, '850 ms'],
    [999.6, '1 s'],
    [4230, '4.2 s'],
    [59_960, '1 m 00 s'],
    [185_000, '3 m 05 s'],
    [7_800_000, '2 h 10 m'],
  ])('writes %d ms as %s', (durationMs, text) => {
    expect(formatDuration(durationMs)).toBe(text);
  });
});

import { expect, test } from 'vitest';
import { bufferBytes } from '../../../src/domain/mirror-start.js';

const MIB = 1024 ** 2;

test.each([
  [undefined, undefined],
  [0.1, 4 * MIB],
  [10, 25_000_000],
  [50, 125_000_000],
  [500, 256 * MIB],
])('a link with a round trip of %s ms gets a buffer of %s bytes', (roundTripMs, bytes) => {
  expect(bufferBytes(roundTripMs)).toBe(bytes);
});

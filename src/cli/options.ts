import { InvalidArgumentError } from 'commander';
import { parseDuration, parseSize } from '../util/bytes.js';

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Whether a text has the form of a UUID. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** Makes a reader of durations in milliseconds within limits, both allowed. */
export function durationWithin(leastMs: number, mostMs: number): (text: string) => number {
  return (text) => {
    const durationMs = orInvalid(() => parseDuration(text));
    if (durationMs >= leastMs && durationMs <= mostMs) return durationMs;
    throw new InvalidArgumentError(`Give ${leastMs} to ${mostMs} ms.`);
  };
}

/** Makes a reader of whole numbers within limits, both allowed. */
export function numberWithin(least: number, most: number): (text: string) => number {
  return (text) => {
    const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least && number <= most) return number;
    throw new InvalidArgumentError(`Give a whole number from ${least} to ${most}.`);
  };
}

/** Reads a rate such as "100MiB/s" as bytes per second. */
export function readRate(text: string): number {
  const size = /^(.*)\/s$/.exec(text.trim())?.[1];
  if (size === undefined)
    throw new InvalidArgumentError('Give a size per second, such as "100MiB/s".');
  const bytesPerS = orInvalid(() => parseSize(size));
  if (bytesPerS > 0) return bytesPerS;
  throw new InvalidArgumentError('Leave the option out for no limit.');
}

/** Reads a UUID. */
export function readUuid(text: string): string {
  if (isUuid(text)) return text.toLowerCase();
  throw new InvalidArgumentError('Give a UUID.');
}

function orInvalid<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) throw new InvalidArgumentError(error.message);
    throw error;
  }
}

const SIZE_UNITS: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['B', 1],
  ...['K', 'M', 'G', 'T', 'P'].flatMap((letter, index): [string, number][] => {
    const factor = 1024 ** (index + 1);
    return [
      [letter, factor],
      [`${letter}iB`, factor],
    ];
  }),
]);

const DURATION_UNITS: ReadonlyMap<string, number> = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
]);

/**
 * Reads a size: a whole number of bytes, or a number with K, M, G, T, P (or KiB, MiB, ...), all
 * powers of 1024 as in QEMU. Decimal units ("1GB") and bits ("1Gb") are refused because people mean
 * different things by them. Throws a RangeError that says what is allowed.
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim());
  const factor = match && SIZE_UNITS.get(match[2] ?? '');
  const value = factor ? Number(match[1]) * factor : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(
      `"${text}" is not a size. Give whole bytes, or a number with K, M, G, T or P ` +
        '(or KiB, MiB, ...), all powers of 1024, such as "64MiB".',
    );
  }
  return value;
}

/**
 * Writes a size for people, with the largest unit that keeps the number at or above 1: "64 MiB",
 * "1.5 GiB".
 */
export function formatSize(sizeBytes: number): string {
  let value = sizeBytes;
  let unit = 'B';
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
    if (Math.abs(value) < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${Number(value.toFixed(value < 10 ? 2 : 1))} ${unit}`;
}

/**
 * Reads a duration in milliseconds from "300ms", "5s", "5m" or "1h". A bare number is refused,
 * because seconds and milliseconds are both plausible. Throws a RangeError that says what is
 * allowed.
 */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/.exec(text.trim());
  const factor = match && DURATION_UNITS.get(match[2] ?? '');
  const value = factor ? Number(match[1]) * factor : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(
      `"${text}" is not a duration. Give a number with ms, s, m or h, ` +
        'in whole milliseconds, such as "300ms".',
    );
  }
  return value;
}

/** Writes a duration for people: "850 ms", "4.2 s", "3 m 05 s", "2 h 10 m". */
export function formatDuration(durationMs: number): string {
  if (durationMs < 999.5) return `${Number(durationMs.toFixed(durationMs < 10 ? 1 : 0))} ms`;
  if (durationMs < 59_950) return `${Number((durationMs / 1000).toFixed(1))} s`;
  const seconds = Math.round(durationMs / 1000);
  const pad = (value: number) => String(value).padStart(2, '0');
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${pad(Math.floor((seconds % 3600) / 60))} m`;
}

/*
 * Numbers on the wire are whole and not negative; the encoder throws on anything else. Figures are
 * measured and divided, so they are rounded here, and one that makes no sense is told as 0 rather
 * than not at all.
 */

const UINT32_LIMIT = 2 ** 32 - 1;

/** The nearest number that an uint64 field of ours can hold. */
export function uint64(value: number): number {
  return clamp(value, Number.MAX_SAFE_INTEGER);
}

/** The nearest number that an uint32 field can hold. */
export function uint32(value: number): number {
  return clamp(value, UINT32_LIMIT);
}

function clamp(value: number, limit: number): number {
  if (Number.isNaN(value)) return 0;
  return Math.min(limit, Math.max(0, Math.round(value)));
}

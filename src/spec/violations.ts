import type { Violation } from '../util/reasoned-error.js';

/** A violation together with the way to its field. */
export interface SpecViolation extends Violation {
  readonly path: readonly (string | number)[];
}

/** Turns a path of zod's into the words that people use: `disks[1].sizeBytes`. */
export function showPath(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) =>
      typeof part === 'number' ? `[${part}]` : `${index > 0 ? '.' : ''}${String(part)}`,
    )
    .join('');
}

/**
 * Finds fields of a newer protocol, which this version cannot honour and must not drop in silence.
 */
export function unknownFields(value: unknown, path: (string | number)[] = []): SpecViolation[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, child]): SpecViolation[] => {
    if (key === '_unknownFields') {
      const where = showPath(path) || 'the spec';
      return Object.keys(child ?? {}).map((tag) => ({
        reason: 'SPEC_INVALID',
        subject: showPath(path),
        message: `${where} has field ${Number(tag) >>> 3}, which this version does not know`,
        path,
      }));
    }
    return unknownFields(child, [...path, Array.isArray(value) ? Number(key) : key]);
  });
}

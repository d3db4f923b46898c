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

/** Nobody reads more than so many at once. */
const VIOLATIONS_LIMIT = 50;
/** Specs are not deeper: a disk in a list in a spec. */
const DEPTH_LIMIT = 4;

/**
 * Finds fields of a newer protocol, which this version cannot honour and must not drop in silence.
 */
export function unknownFields(value: unknown): readonly SpecViolation[] {
  const found: SpecViolation[] = [];
  findUnknown(value, [], found);
  return found;
}

/** As many as somebody reads, and how many more there are. */
export function firstViolations(violations: readonly SpecViolation[]): readonly SpecViolation[] {
  const first = violations.slice(0, VIOLATIONS_LIMIT);
  const more = violations.length - first.length;
  if (more === 0) return first;
  const rest = { subject: '', message: `${more} more things are wrong`, path: [] };
  return [...first, { reason: 'SPEC_INVALID', ...rest }];
}

function findUnknown(value: unknown, path: (string | number)[], found: SpecViolation[]): void {
  if (typeof value !== 'object' || value === null || path.length > DEPTH_LIMIT) return;
  for (const [key, child] of Object.entries(value)) {
    if (found.length > VIOLATIONS_LIMIT) return;
    if (key !== '_unknownFields') {
      if (typeof child !== 'object') continue;
      findUnknown(child, [...path, Array.isArray(value) ? Number(key) : key], found);
      continue;
    }
    const where = showPath(path) || 'the spec';
    for (const tag of Object.keys(child ?? {}).slice(0, VIOLATIONS_LIMIT)) {
      found.push({
        reason: 'SPEC_INVALID',
        subject: showPath(path),
        message: `${where} has field ${Number(tag) >>> 3}, which this version does not know`,
        path,
      });
    }
  }
}

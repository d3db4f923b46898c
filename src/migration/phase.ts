/**
 * Where a migration is, in order, beside the steps of the message it grew from. The order is the
 * order of the code; this table only checks it.
 */
export const PHASES = {
  prepare: { seedSteps: [1, 2], next: ['mirror'] },
  mirror: { seedSteps: [3, 4], next: ['precopy'] },
  precopy: { seedSteps: [6, 5], next: ['switchover'] },
  switchover: { seedSteps: [5], next: ['handover'] },
  handover: { seedSteps: [7], next: ['cleanup'] },
  cleanup: { seedSteps: [], next: [] },
} as const satisfies Record<string, { seedSteps: readonly number[]; next: readonly string[] }>;

/** A phase of a migration. */
export type Phase = keyof typeof PHASES;

/** True when `to` may follow `from`; the first phase follows nothing. */
export function mayFollow(from: Phase | undefined, to: Phase): boolean {
  if (from === undefined) return to === 'prepare';
  return (PHASES[from].next as readonly string[]).includes(to);
}

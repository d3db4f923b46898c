import type { DestinationState, SourceState } from '../../../src/migration/handover-types.js';
import { destinationMayRun, isTaken, sourceMayRun } from '../../../src/migration/handover-types.js';
import { destinationRecordBit } from './messages.js';
import type { Rules } from './moves.js';
import type { Half, Host, Leg, World } from './world.js';

/** What says that the destination will never take the guest. */
export const NEVER = [0, 2, 4].reduce(
  (bits, raised) =>
    bits | destinationRecordBit('ABORTED', raised) | destinationRecordBit('SUPERSEDED', raised),
  0,
);

/**
 * Whether the agent of its host may let a copy run: every migration that it has to do with must
 * allow it, both as it has been decided and as it has been written.
 */
export function gateIsOpen(world: World, rules: Rules, copy: number): boolean {
  const host = world.hosts[rules.layout.hostOf[copy] as number] as Host;
  if (host.quarantined && !rules.flaws.has('quarantine-is-ignored')) return false;
  return rules.layout.legs.every(({ from, to }, index) => {
    const { source, destination } = world.legs[index] as Leg;
    if (from === copy) return sourceAllows(source, rules);
    if (to === copy) return destinationAllows(destination);
    return true;
  });
}

function sourceAllows(half: Half<SourceState>, rules: Rules): boolean {
  const { journal, state, doubt } = half;
  if (!journal) return true;
  if (doubt) {
    // The next life may believe what could not be written; the destination must not take it before.
    const undone = heardNever(half) || rules.flaws.has('unwritten-is-undone');
    return state !== undefined && sourceMayRun(state) && undone;
  }
  const written = sourceMayRun({ ...journal, held: false } as SourceState);
  if (rules.flaws.has('gate-opens-while-writing')) return written;
  return state !== undefined && sourceMayRun(state) && written;
}

/** True once the destination has said that it will never take the guest. */
export function heardNever({ inbox }: Half<SourceState>): boolean {
  return (inbox & NEVER) !== 0;
}

function destinationAllows({ journal, state }: Half<DestinationState>): boolean {
  if (!journal || !state) return false;
  return destinationMayRun(state) && isTaken(journal.record as DestinationState['record']);
}

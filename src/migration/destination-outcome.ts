import { MigrationError, toFailure } from './errors.js';
import { isTerminal } from './migration.js';
import type { Tracker } from './tracker.js';

/*
 * How the destination's half of a migration shows itself to those who watch it, in every way it can
 * end or be stuck.
 */

/** The guest runs here. */
export function showArrived(tracker: Tracker): void {
  if (tracker.now.phase === 'handover') tracker.enter('cleanup');
  tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION', failure: undefined });
}

/** The guest is this host's, and its QEMU has gone. */
export function showLost(tracker: Tracker, error: unknown): void {
  const failure = toFailure(error, 'destination', 'handover');
  tracker.end({ state: 'FAILED', runningOn: 'NOWHERE', failure });
}

/** Nothing of the migration is left here. */
export function showRolledBack(tracker: Tracker, error: unknown): void {
  const failure = toFailure(error, 'destination', tracker.now.phase);
  const state = failure.reason === 'CANCELLED_BY' ? 'CANCELLED' : 'FAILED';
  tracker.end({ state, runningOn: 'SOURCE', failure });
}

/** A person has given the guest to the other side; what is here stands still. */
export function showSuperseded(tracker: Tracker): MigrationError {
  const { sourceHost } = tracker.now;
  const message = `${sourceHost} has the guest by a person's word; it stands still here.`;
  const error = new MigrationError('OWNERSHIP_LOST', message, { side: 'destination' });
  const failure = toFailure(error, 'destination', 'handover');
  const change = { state: 'FAILED', runningOn: 'SOURCE', failure } as const;
  // One that had arrived has ended long ago, and is shown as what it has become.
  if (isTerminal(tracker.now.state)) tracker.update(change);
  else tracker.end(change);
  return error;
}

/** The source has been silent for too long about who has the guest. */
export function showInDoubt(tracker: Tracker): MigrationError {
  const { sourceHost } = tracker.now;
  const message = `${sourceHost} has not said since this agent's restart who has the guest.`;
  const error = new MigrationError('OWNERSHIP_UNKNOWN', message, { side: 'source' });
  const failure = toFailure(error, 'destination', 'handover');
  tracker.update({ state: 'IN_DOUBT', runningOn: 'UNKNOWN', failure });
  return error;
}

/** It has spoken again. */
export function showOutOfDoubt(tracker: Tracker): void {
  if (tracker.now.state !== 'IN_DOUBT') return;
  tracker.update({ state: 'RUNNING', runningOn: 'UNKNOWN', failure: undefined });
}

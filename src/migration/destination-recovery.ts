import type { IncomingDomain } from '../domain/types.js';
import type { DestinationHalf } from './destination-half.js';
import { showInDoubt, showSuperseded } from './destination-outcome.js';
import { noteDoubt } from './doubts.js';
import { MigrationError } from './errors.js';
import type {
  DestinationEvent,
  DestinationQemu,
  DestinationRecord,
  Effect,
} from './handover-types.js';
import { destinationMayRun, isComing, isTaken } from './handover-types.js';
import { readPaused, readPhase } from './journal-reading.js';
import { nowOrLater } from './now-or-later.js';
import type { PeerState } from './peer.js';

const OBSERVE_LIMIT_MS = 10_000;
const SILENCE_LIMIT_MS = 60_000;
/** A guest that is loaded is kept longer, since its source may be about to commit. */
const LOADED_SILENCE_LIMIT_MS = 600_000;

/** Asks the source from time to time what its journal says, until it can say nothing new. */
export function followSource(half: DestinationHalf): void {
  const { source, tracker, log } = half.parts;
  source.follow({
    own: () => half.state,
    heard: (state) => hear(half, state),
    silent: (forMs) => unheard(half, forMs),
    urgent: () => isTaken(half.decider.state.record) && !half.decider.state.confirmed,
    alarm: () => {
      const error = showInDoubt(tracker);
      log.error({ err: error }, 'the migration is in doubt');
      noteDoubt(half.parts.journal, error.message, log);
    },
  });
}

/**
 * Goes on where an earlier life of the agent ended. Resolves when everything here is as it should
 * be, as far as that can be known without the source; where QEMU does not answer, that goes on
 * behind. `incoming` is undefined where nothing of it is left.
 */
export async function recoverDestination(
  half: DestinationHalf,
  incoming: IncomingDomain | undefined,
): Promise<void> {
  const { log, tracker, journal } = half.parts;
  half.incoming = incoming;
  tracker.update({ state: 'RUNNING', phase: readPhase(journal) });
  half.holdDomain();
  const observe = async () => ({ qemu: await observed(incoming) });
  const { now, later } = await nowOrLater(observe, log, half.left.signal);
  if (now) return await goOn(half, now.qemu);
  void later
    .then(({ qemu }) => goOn(half, qemu))
    .catch((error) => log.error({ err: error }, 'the recovery has ended'));
}

/** Does what is left of effects: writing and standing down have been done. */
export async function carryOut(
  half: DestinationHalf,
  effects: readonly Effect[],
  reason: MigrationError,
): Promise<void> {
  if (effects.some(({ type }) => type === 'discard')) await half.end(reason);
  if (effects.some(({ type }) => type === 'run-here')) {
    await half.taking.goOn(half.incoming, { paused: readPaused(half.parts.journal) });
  }
}

async function goOn(half: DestinationHalf, qemu: DestinationQemu): Promise<void> {
  const { decider, incoming, parts } = half;
  const { record } = decider.state;
  const effects = await decider.decide({ type: 'restarted', qemu });
  parts.log.warn({ qemu, record, effects: effects.map(({ type }) => type) }, 'recovering');
  const state = decider.state;
  if (isComing(state.record)) void incoming?.died.then((error) => half.qemuDied(error));
  // One that is loaded stays on its way in until the source has confirmed it; one that has gone
  // must not be started before.
  if (isTaken(state.record) && qemu === 'running') half.settle();
  else if (isTaken(state.record) && qemu === 'gone') void half.arrive();
  half.holdDomain();
  await carryOut(half, effects, restarted(half));
  if (!half.settled) followSource(half);
  else if (state.record === 'SOURCE_GONE') await half.closeIfSettled();
}

/** The source has said what its journal says. */
async function hear(half: DestinationHalf, { record, rank }: PeerState): Promise<void> {
  const { decider, parts } = half;
  const before = decider.state.record;
  // What a source says was never a destination's record.
  const effects = await decider.decide({ type: 'peer', record, rank } as DestinationEvent);
  const now = decider.state;
  half.holdDomain();
  standBack(half, before);
  if (now.record !== 'OWNED' && destinationMayRun(now)) half.settle();
  const over = `${parts.header.sourceHost} has given the migration up (${record}).`;
  await carryOut(half, effects, new MigrationError('PEER_LOST', over, { side: 'source' }));
  await half.closeIfSettled();
}

/** Tells everyone, where the guest has just been stopped here because another host has it. */
export function standBack(half: DestinationHalf, before: DestinationRecord): void {
  if (half.decider.state.record !== 'SUPERSEDED' || before === 'SUPERSEDED') return;
  half.taking.giveBack();
  const error = showSuperseded(half.parts.tracker);
  half.parts.log.error({ err: error }, 'another host has the guest; it stops here');
}

function unheard(half: DestinationHalf, forMs: number): void {
  const { record } = half.decider.state;
  const limitMs = record === 'LOADED' ? LOADED_SILENCE_LIMIT_MS : SILENCE_LIMIT_MS;
  if (!isComing(record) || forMs < limitMs) return;
  const message = `${half.parts.header.sourceHost} has not answered for ${limitMs / 1000} s.`;
  void half.giveUp(new MigrationError('PEER_LOST', message, { side: 'source' }));
}

async function observed(incoming: IncomingDomain | undefined): Promise<DestinationQemu> {
  if (!incoming) return 'gone';
  return await incoming.observe({ signal: AbortSignal.timeout(OBSERVE_LIMIT_MS) });
}

function restarted({ parts }: DestinationHalf): MigrationError {
  const message = `The agent of ${parts.header.destinationHost} ended before it had the guest.`;
  return new MigrationError('AGENT_RESTARTED', message, { side: 'destination' });
}

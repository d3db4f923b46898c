import { setTimeout as delay } from 'node:timers/promises';
import type { Domain, OutgoingDomain, WaitOptions } from '../domain/types.js';
import { asReasoned, MigrationError } from './errors.js';
import type { Effect, SourceEvent } from './handover-types.js';
import { isUndecided, sourceMayRun } from './handover-types.js';
import { readPaused, readPhase } from './journal-reading.js';
import type { OutgoingHalf } from './outgoing-half.js';
import type { PeerState } from './peer.js';
import { finishHandover } from './source.js';

const OBSERVE_LIMIT_MS = 10_000;
/** As long as a mirror goes on by itself, its destination's agent may take to come back. */
const GO_ON_LIMIT_MS = 60_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;
const ALARM_MS = 15_000;

/** What is left to do of a migration that an earlier life of the agent began. */
export interface Unfinished {
  readonly effects: readonly Effect[];
  readonly found: OutgoingDomain | undefined;
}

/** What became of it: the flow has to be run again, or it is over, well or for this reason. */
export type Recovered =
  | { readonly again: Domain }
  | { readonly again?: undefined; readonly failed: unknown };

/**
 * Asks QEMU what it does, decides, and brings the guest back where that needs nobody else. `found`
 * is undefined where this host has nothing of the domain any more.
 *
 * @throws DomainError where its QEMU lives and does not answer: then nothing has been decided
 */
export async function beginRecovery(
  half: OutgoingHalf,
  found: OutgoingDomain | undefined,
  sameBoot: boolean,
): Promise<Unfinished> {
  const { parts, decider } = half;
  const { journal, log, tracker } = parts;
  const cancellable = isUndecided(decider.state.record);
  tracker.update({ state: 'RUNNING', phase: readPhase(journal), cancellable });
  half.holdDomain();
  const options = { signal: AbortSignal.timeout(OBSERVE_LIMIT_MS) };
  const gone = { qemu: 'gone', mirrored: false } as const;
  const observed = found ? await found.observe(options) : gone;
  const { record } = decider.state;
  const effects = await decider.decide({ type: 'restarted', sameBoot, ...observed });
  log.warn({ ...observed, record, effects: effects.map(({ type }) => type) }, 'recovering');
  half.holdDomain();
  const { epoch } = decider.state.rank;
  // The earlier life may have ended between its two files.
  if (found && epoch > journal.header.epoch) {
    await parts.tools.domains.raiseEpoch(tracker.now.domainUuid, epoch);
  }
  if (has(effects, 'run-here')) await found?.bringBack({ paused: readPaused(journal) });
  return { effects, found };
}

/** Carries out the rest, for which the destination may have to be asked. Never throws. */
export async function finishRecovery(
  half: OutgoingHalf,
  { effects, found }: Unfinished,
): Promise<Recovered> {
  const { journal } = half.parts;
  const guest = { paused: readPaused(journal) };
  const failed = agentEnded(half);
  try {
    if (has(effects, 'go-on') && found?.domain && (await isHeld(half))) {
      return { again: found.domain };
    }
    if (has(effects, 'send-commit')) {
      await finishHandover(found, half.peer, { guestPaused: guest.paused }, half.context);
      return { failed: undefined };
    }
    if (has(effects, 'send-abort')) await untilHeard(half, (options) => half.peer.abort(options));
    if (has(effects, 'ask-peer')) await untilHeard(half, (options) => half.peer.query(options));
    if (has(effects, 'retire') || half.moved) {
      await found?.retire(half.peer.host);
      await half.peer.sourceGone();
    } else if (!has(effects, 'run-here') && sourceMayRun(half.decider.state)) {
      await found?.bringBack(guest);
    }
    return { failed: half.moved ? undefined : failed };
  } catch (error) {
    if (sourceMayRun(half.decider.state)) await found?.bringBack(guest);
    return { failed: error };
  }
}

/** True when the destination still has what the mirrors write to. */
async function isHeld({ peer, parts }: OutgoingHalf): Promise<boolean> {
  const { tools, stopping: signal, log } = parts;
  const untilMs = tools.clock.nowMs() + GO_ON_LIMIT_MS;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    try {
      const { record } = await peer.query({ signal });
      return record === 'PREPARED';
    } catch (error) {
      log.warn({ reason: asReasoned(error).reason }, 'the destination does not answer yet');
      if (tools.clock.nowMs() > untilMs) return false;
    }
    await delay(pauseMs, undefined, { signal });
  }
}

/** Says something to the destination; where its answer decides who runs the guest, until it has. */
async function untilHeard(
  half: OutgoingHalf,
  say: (options: WaitOptions) => Promise<PeerState>,
): Promise<void> {
  const { decider, peer, parts, resolved } = half;
  const { stopping: signal, log } = parts;
  const alarm = setTimeout(() => half.markDoubt(unheard(peer.host)), ALARM_MS);
  try {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
      try {
        const { record, rank } = await say({ signal });
        // What a destination says was never a source's record.
        await decider.decide({ type: 'peer', record, rank } as SourceEvent);
      } catch (error) {
        log.warn({ reason: asReasoned(error).reason }, 'the destination does not answer');
      }
      if (!decider.state.held) break;
      await Promise.race([delay(pauseMs, undefined, { signal }), resolved.promise]);
    }
  } finally {
    clearTimeout(alarm);
  }
  half.markDoubt(undefined);
  half.holdDomain();
}

function has(effects: readonly Effect[], type: Effect['type']): boolean {
  return effects.some((effect) => effect.type === type);
}

function agentEnded({ parts }: OutgoingHalf): MigrationError {
  const { sourceHost, phase = 'prepare' } = parts.tracker.now;
  const message = `The agent of ${sourceHost} ended in the phase ${phase}.`;
  return new MigrationError('AGENT_RESTARTED', message, { side: 'source' });
}

function unheard(host: string): MigrationError {
  const message = `${host} has not said yet whether it took the guest before this host booted.`;
  return new MigrationError('OWNERSHIP_UNKNOWN', message, { facts: { destination_host: host } });
}

import { setTimeout as delay } from 'node:timers/promises';
import type { Domain, OutgoingDomain, WaitOptions } from '../domain/types.js';
import type { Reason } from '../util/reasons.js';
import { type Failure, MigrationError, toFailure } from './errors.js';
import { stepSource } from './handover.js';
import {
  type DestinationRecord,
  isComing,
  type SourceEvent,
  sourceMayRun,
} from './handover-types.js';
import { type ReadJournal, readPaused, readText } from './journal-reading.js';
import type { Migration, MigrationRequest } from './migration.js';
import { nowOrLater } from './now-or-later.js';
import { OutgoingHalf, type OutgoingParts } from './outgoing-half.js';
import { beginRecovery, finishRecovery, type Unfinished } from './outgoing-recovery.js';
import type { PeerState } from './peer.js';
import type { Resolvable } from './resolving.js';
import { migrateToPeer } from './source.js';
import type { Tracker } from './tracker.js';

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;

/** What a source sees when the trouble is on the other side. */
const SYMPTOMS: readonly Reason[] = [
  'RAM_FAILED',
  'MIRROR_FAILED',
  'PEER_LOST',
  'PEER_UNREACHABLE',
  'STALLED',
  'INTERNAL',
];

/** Ends QEMU here and turns the images into the tombstone. */
type Retire = (ownerHost: string) => Promise<void>;

/** One migration that leaves this host: its flow, and what comes after every way it can end. */
export class OutgoingMigration implements Resolvable {
  readonly request: MigrationRequest;
  readonly tracker: Tracker;
  /** Resolves when nothing more will happen here. Never rejects. */
  done: Promise<void> = Promise.resolve();
  readonly #half: OutgoingHalf;
  /** True once nothing is written any more. */
  #closed = false;

  constructor(parts: OutgoingParts) {
    this.request = parts.request;
    this.tracker = parts.tracker;
    this.#half = new OutgoingHalf(parts);
  }

  /** What the journal says, for the peer. */
  get state(): PeerState {
    return this.#half.state;
  }

  /** True where a person may have to say who has the guest. */
  get undecided(): boolean {
    const { record, held } = this.#half.decider.state;
    return record === 'COMMITTED' || held;
  }

  get cancelled(): boolean {
    return this.#half.controller.signal.aborted;
  }

  /** Begins the flow. */
  begin(domain: Domain): void {
    this.#half.parts.log.info({}, 'migration accepted');
    this.done = this.#run(domain);
  }

  /**
   * Goes on where an earlier life of the agent ended. Resolves when the guest is as it should be,
   * as far as that can be known without the peer; the rest goes on behind.
   */
  async recover(found: OutgoingDomain | undefined, sameBoot: boolean): Promise<void> {
    const { log, stopping } = this.#half.parts;
    const begin = () => beginRecovery(this.#half, found, sameBoot);
    const { now, later } = await nowOrLater(begin, log, stopping);
    this.done = now ? this.#goOn(now) : later.then((unfinished) => this.#goOn(unfinished));
    this.done = this.done.catch((error) => log.error({ err: error }, 'the recovery has ended'));
  }

  /** Asks it to stop; has no effect once the handover has begun. */
  cancel(error: MigrationError): void {
    if (!this.tracker.now.cancellable) return;
    this.#half.controller.abort(error);
    this.tracker.update({ cancellable: false });
  }

  /** The agent ends: the next life goes on. */
  async leave(): Promise<void> {
    await this.#half.parts.journal.close();
  }

  /**
   * The destination has asked, and said what its own journal says. That is believed only of the
   * journal that took part, and only while the journal here is open: after the end, nothing that a
   * destination says may stop a guest that has stayed.
   */
  async hear({ record, rank, journalId }: PeerState): Promise<void> {
    const { giveUp, peer, resolved, parts } = this.#half;
    const known = readText(parts.journal, 'destinationJournalId');
    if (this.#closed || (known !== '' && journalId !== known)) return;
    // What a destination says was never a source's record.
    const event = { type: 'peer', record, rank } as SourceEvent;
    const message = `${peer.host} has asked, and its journal says ${record}.`;
    const why = new MigrationError('PEER_LOST', message, { side: 'destination' });
    // Its own question may be all that comes through, where its answers are lost.
    if (await giveUp.hear(event, why)) resolved.resolve();
  }

  get migration(): Migration {
    return this.tracker.now;
  }

  get journal(): ReadJournal {
    return this.#half.parts.journal;
  }

  /** Asks the destination what its journal says. */
  query(options: WaitOptions): Promise<PeerState> {
    return this.#half.peer.query(options);
  }

  /** True where nobody else is needed once the destination has said this. */
  settledBy({ record, rank }: PeerState): boolean {
    const { state } = this.#half.decider;
    if (record === 'NONE') return false;
    // It is asked to take the guest until it has, or to give up until it has.
    if (state.record === 'COMMITTED' || isComing(record as DestinationRecord)) return true;
    return !stepSource(state, { type: 'peer', record, rank } as SourceEvent).state.held;
  }

  /** A person says who has the guest: false where the source knows it, and nothing is done. */
  async resolve(by: 'reclaim' | 'relinquish', audit: object): Promise<boolean> {
    const { giveUp, decider, parts, resolved } = this.#half;
    const { effects } = stepSource(decider.state, { type: 'resolved', by });
    if (effects.length === 0) return false;
    await parts.journal.append('RESOLVED', { ...audit });
    const message = `A person took the guest back from ${this.request.destinationHost}.`;
    const why = new MigrationError('CANCELLED_BY', message, { side: 'source' });
    const decided = await giveUp.hear({ type: 'resolved', by }, why);
    const { epoch } = decider.state.rank;
    if (by === 'reclaim') await parts.tools.domains.raiseEpoch(this.tracker.now.domainUuid, epoch);
    this.#half.holdDomain();
    resolved.resolve();
    return decided;
  }

  /** `found` may hold what an earlier life of the agent made and the flow did not come to. */
  async #run(domain: Domain, found?: OutgoingDomain): Promise<void> {
    const { peer, context, parts, decider } = this.#half;
    let failed: unknown;
    try {
      await migrateToPeer(domain, peer, context);
    } catch (error) {
      failed = error;
      if (sourceMayRun(decider.state))
        await found?.bringBack({ paused: readPaused(parts.journal) });
    }
    await this.#end(failed, (ownerHost) => domain.retire(ownerHost));
  }

  async #goOn(unfinished: Unfinished): Promise<void> {
    const recovered = await finishRecovery(this.#half, unfinished);
    if (recovered.again) {
      this.tracker.update({ phase: undefined, phaseTimes: [] });
      return await this.#run(recovered.again, unfinished.found);
    }
    await this.#end(recovered.failed, async (host) => await unfinished.found?.retire(host));
  }

  async #end(failed: unknown, retire: Retire): Promise<void> {
    const { parts, context, moved } = this.#half;
    const { log, tools } = parts;
    context.close();
    if (moved) this.#moved();
    else await this.#rolledBack(failed);
    const { state, summary, domainUuid } = this.tracker.now;
    log.info({ state, summary }, 'migration ended');
    if (moved && failed !== undefined) {
      log.error({ err: failed }, 'the guest has moved, but the clean-up here failed');
      await this.#retireAgain(retire);
    }
    this.#half.holdDomain();
    tools.domains.unclaim(domainUuid, this.request.migrationId);
    await this.#close();
  }

  async #close(): Promise<void> {
    const { log, journal } = this.#half.parts;
    const { state, runningOn, failure, summary } = this.tracker.now;
    await journal
      .append('ENDED', { state, runningOn, failure, summary })
      .catch((error) => log.error({ err: error }, 'the end could not be written'));
    // One that a person has raised may still have to learn that the destination outranks it.
    const { epoch } = this.#half.decider.state.rank;
    if (epoch !== journal.header.epoch) return;
    this.#closed = true;
    await journal.close();
  }

  #moved(): void {
    const { giveUp, peer } = this.#half;
    if (!giveUp.lost) {
      this.tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION', failure: undefined });
      return;
    }
    const message = `${peer.host} took the guest and its QEMU ended; its images count.`;
    const options = { side: 'destination', hint: `Start the domain on ${peer.host}.` } as const;
    const error = new MigrationError('DEST_QEMU_DIED', message, options);
    const failure = toFailure(error, 'destination', this.tracker.now.phase);
    this.tracker.end({ state: 'FAILED', runningOn: 'NOWHERE', failure });
  }

  // The guest runs elsewhere, so there is nothing to give up: this is tried until it works.
  async #retireAgain(retire: Retire): Promise<void> {
    const { parts, peer } = this.#half;
    const { stopping: signal, log } = parts;
    for (
      let pauseMs = FIRST_PAUSE_MS;
      !signal.aborted;
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)
    ) {
      await delay(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
      try {
        await retire(peer.host);
        return await peer.sourceGone();
      } catch (error) {
        log.error({ err: error }, 'the clean-up here failed again');
      }
    }
  }

  async #rolledBack(error: unknown): Promise<void> {
    const { parts, decider, controller } = this.#half;
    await decider
      .decide({ type: 'failed' })
      .catch((problem) => parts.log.error({ err: problem }, 'the rollback could not be written'));
    this.#tellAbort();
    const failure = this.#chooseFailure(this.cancelled ? controller.signal.reason : error);
    parts.log.warn({ err: error, reason: failure.reason }, 'migration rolled back');
    const state = failure.reason === 'CANCELLED_BY' ? 'CANCELLED' : 'FAILED';
    const gone = failure.reason === 'SOURCE_QEMU_DIED' || failure.reason === 'GUEST_STOPPED';
    this.tracker.end({ state, runningOn: gone ? 'NOWHERE' : 'SOURCE', failure });
  }

  /** The destination asks by itself, but sooner is better: its host may need the room. */
  #tellAbort(): void {
    const { peer, parts } = this.#half;
    if (peer.heardAbort || this.#half.decider.state.record !== 'ABORTED') return;
    const { stopping: signal, log } = parts;
    const tell = async () => {
      for (let pauseMs = FIRST_PAUSE_MS; !peer.heardAbort; pauseMs = 2 * pauseMs) {
        await peer.abort({ signal }).catch((error) => log.debug({ err: error }, 'abort unheard'));
        if (pauseMs > LONGEST_PAUSE_MS) return;
        await delay(pauseMs, undefined, { signal, ref: false });
      }
    };
    tell().catch(() => undefined);
  }

  // A stream that broke says less than what the destination itself gives as its reason.
  #chooseFailure(error: unknown): Failure {
    const own = toFailure(error, 'source', this.tracker.now.phase);
    const cause = this.#half.peer.failure;
    // A QEMU that has just died over there is seen here as a command that fails.
    if (cause?.reason === 'DEST_QEMU_DIED' && own.reason === 'QEMU_ERROR') return cause;
    if (!cause || cause.reason === 'CANCELLED_BY' || !SYMPTOMS.includes(own.reason)) return own;
    // A stream that this side has cut looks like one that cannot be understood over there.
    const echo = cause.reason === 'VMSTATE_INCOMPATIBLE' && own.reason !== 'RAM_FAILED';
    return echo ? own : cause;
  }
}

import { setTimeout as delay } from 'node:timers/promises';
import type { IncomingDomain, MigratableDomains } from '../domain/types.js';
import type { AuditLog } from '../util/audit.js';
import { type Deferred, deferred } from '../util/deferred.js';
import type { Log } from '../util/log.js';
import { Decider } from './decider.js';
import { showArrived, showLost, showOutOfDoubt, showRolledBack } from './destination-outcome.js';
import { doubtOfDestination } from './doubts.js';
import { asReasoned, type Failure } from './errors.js';
import { stepDestination } from './handover.js';
import type { DestinationEvent, DestinationState } from './handover-types.js';
import { isComing, isTaken } from './handover-types.js';
import type { Journal } from './journal.js';
import { readDestination } from './journal-reading.js';
import type { PeerHeader, PeerState } from './peer.js';
import { mayFollow, type Phase } from './phase.js';
import type { SourcePeer } from './source-peer.js';
import { Steps } from './steps.js';
import { Taking } from './taking.js';
import type { Tracker } from './tracker.js';

/** What the destination's half of one migration is made of. */
export interface DestinationParts {
  readonly header: PeerHeader;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly source: SourcePeer;
  readonly domains: MigratableDomains;
  readonly log: Log;
  readonly audit: AuditLog;
  readonly observe?: (label: string) => void;
}

const ARRIVE_AGAIN_MS = 1_000;

/** The destination's half of one migration: what its flow, its recovery and its end stand on. */
export class DestinationHalf {
  readonly parts: DestinationParts;
  readonly decider: Decider<DestinationState, DestinationEvent>;
  readonly taking: Taking;
  readonly steps = new Steps();
  /** Fires when the agent stops. */
  readonly left = new AbortController();
  incoming: IncomingDomain | undefined;
  /** Resolves when the guest is ours, or nothing of it is left. */
  readonly over: Deferred<void> = deferred();
  /** Why the migration is given up here, where it is. */
  givenUp: Error | undefined;
  #ending: Promise<void> | undefined;
  #arrived = false;

  constructor(parts: DestinationParts) {
    const { header, journal, domains, log } = parts;
    this.parts = parts;
    this.decider = new Decider<DestinationState, DestinationEvent>({
      state: readDestination(journal),
      step: stepDestination,
      journal,
      standDown: () => domains.standDown(header.domainUuid, this.decider.state.rank),
      ...(parts.observe ? { observe: parts.observe } : {}),
    });
    const ports = {
      begins: () => this.#beginHandover(),
      taken: (error?: unknown) => this.settle(error),
      discard: (error: unknown) => this.end(asReasoned(error)),
      failure: () => this.failure,
    };
    const lost = journal.entries.some((entry) => entry['lost'] === true);
    this.taking = new Taking(this.decider, ports, log, lost);
  }

  /** What the journal says, for the peer. */
  get state(): PeerState {
    const { record, rank } = this.decider.state;
    return { record, rank, journalId: this.parts.journal.header.journalId, failure: this.failure };
  }

  get failure(): Failure | undefined {
    return this.parts.tracker.now.failure;
  }

  /** True when the source will never ask for this migration again. */
  get settled(): boolean {
    const { record } = this.decider.state;
    return record === 'ABORTED' || record === 'SOURCE_GONE';
  }

  /** How the migration is ending here, where it is. */
  get ending(): Promise<void> | undefined {
    return this.#ending;
  }

  enter(phase: Phase): void {
    const { tracker, journal, log } = this.parts;
    if (tracker.now.phase === phase) return;
    // A source that has started again runs its flow from the beginning.
    if (mayFollow(tracker.now.phase, phase)) tracker.enter(phase);
    else tracker.update({ phase });
    log.info({ phase }, 'entered a phase');
    const record = phase === 'mirror' ? 'EXPORTED' : phase === 'precopy' ? 'RAM' : undefined;
    if (!record) return;
    // It only helps the next life to show where the migration was.
    journal.append(record).catch((error) => log.warn({ err: error }, 'a phase is not written'));
  }

  /** What nobody may do with the domain follows from what the journal says. */
  holdDomain(): void {
    const { domains, journal, tracker, header } = this.parts;
    const { domainUuid, domainName } = tracker.now;
    const doubt = doubtOfDestination(this.decider.state, {
      domainName,
      peer: header.sourceHost,
      migrationId: header.migrationId,
      broken: journal.broken,
    });
    domains.doubt(domainUuid, doubt, header.migrationId);
  }

  /** The guest is ours: it joins this host's domains. That is not done while it is paused. */
  settle(error?: unknown): void {
    const { tracker } = this.parts;
    showOutOfDoubt(tracker);
    this.over.resolve();
    void this.arrive();
    if (error === undefined) showArrived(tracker);
    else showLost(tracker, error);
  }

  /** Writes the epoch that a person has raised into the definition of a domain that is here. */
  async raiseEpoch(): Promise<void> {
    const { domains, header } = this.parts;
    const { epoch } = this.decider.state.rank;
    if (epoch > header.epoch) await domains.raiseEpoch(header.domainUuid, epoch);
  }

  async arrive(): Promise<void> {
    if (this.#arrived || !this.incoming) return;
    this.#arrived = true;
    while (!this.left.signal.aborted) {
      try {
        await this.incoming.arrive();
        await this.raiseEpoch();
        return this.holdDomain();
      } catch (error) {
        this.parts.log.error({ err: error }, 'the arrival could not be written; trying again');
        await delay(ARRIVE_AGAIN_MS, undefined, { ref: false });
      }
    }
  }

  /** Gives the migration up, unless the guest is ours or just becoming so. */
  async giveUp(error: unknown): Promise<void> {
    if (this.taking.begun || !isComing(this.decider.state.record)) return;
    this.givenUp ??= asReasoned(error);
    await this.decider
      .decide({ type: 'abort' })
      .catch((problem) => this.parts.log.error({ err: problem }, 'the end could not be written'));
    if (!this.taking.begun) await this.end(asReasoned(error));
  }

  /**
   * Its QEMU has ended, and nobody here wanted that. What the source sends may have been made to
   * bring it about: the migration ends, and QEMU is not started for it once more.
   */
  async qemuDied(error: Error): Promise<void> {
    const { record } = this.decider.state;
    if (record !== 'LOADED' && !isTaken(record)) {
      const { audit, header, log } = this.parts;
      audit.record({
        caller: `host/${header.sourceHost}`,
        action: 'QEMU_CRASHED_WHILE_RECEIVING',
        decision: 'EVENT',
        reason: asReasoned(error).reason,
        subject: header.migrationId,
        message: error.message,
      });
      log.error(
        { err: error },
        'QEMU crashed while it received a domain; the source may be hostile',
      );
    }
    await this.giveUp(error);
  }

  /** Removes everything that was made here; resolves when nothing is left. */
  end(error: Error): Promise<void> {
    this.#ending ??= this.#remove(error);
    return this.#ending;
  }

  /** Ends the journal where the source will never ask again. */
  async closeIfSettled(): Promise<void> {
    if (this.decider.state.record === 'SOURCE_GONE') await this.#close();
  }

  /** The agent ends: the next life goes on. */
  leave(): void {
    this.parts.source.unfollow();
    this.left.abort(new Error('The agent stops.'));
    void this.parts.journal.close();
  }

  #beginHandover(): void {
    // One that an earlier life of the agent has taken is beyond it already.
    if (this.parts.tracker.now.phase !== 'cleanup') this.enter('handover');
  }

  async #remove(error: Error): Promise<void> {
    const { source, tracker, log } = this.parts;
    source.unfollow();
    // A step that is under way may still make things; they can be removed only when it has ended.
    await this.steps.end(error);
    await this.incoming?.[Symbol.asyncDispose]();
    showRolledBack(tracker, error);
    this.over.resolve();
    log.info({ reason: this.failure?.reason }, 'nothing of the migration is left here');
    await this.#close();
  }

  async #close(): Promise<void> {
    const { source, journal, tracker, log } = this.parts;
    source.unfollow();
    const { state, runningOn, failure } = tracker.now;
    await journal
      .append('ENDED', { state, runningOn, failure })
      .catch((error) => log.error({ err: error }, 'the end could not be written'));
    await journal.close();
  }
}

import type { Written } from '../domain/images.js';
import type { LaunchSpec } from '../domain/launch-spec.js';
import type { IncomingDomain, IncomingRequest, WaitOptions } from '../domain/types.js';
import type { Reason } from '../util/reasons.js';
import { DestinationHalf, type DestinationParts } from './destination-half.js';
import { carryOut, followSource, recoverDestination, standBack } from './destination-recovery.js';
import { asReasoned, MigrationError } from './errors.js';
import { stepDestination } from './handover.js';
import { type DestinationEvent, isComing, isTaken } from './handover-types.js';
import type { ReadJournal } from './journal-reading.js';
import type { Migration } from './migration.js';
import type { CommitOutcome, PeerState } from './peer.js';
import type { Phase } from './phase.js';
import type { Resolvable } from './resolving.js';

/**
 * What the destination's flow needs besides the domains and the source: steps, decisions, the end.
 */
export class DestinationContext implements Resolvable {
  readonly #half: DestinationHalf;
  /** Which of the incoming QEMUs is the one that counts. */
  attempt: number;

  constructor(parts: DestinationParts) {
    this.#half = new DestinationHalf(parts);
    this.attempt = parts.header.attempt;
  }

  /** What the journal says, for the peer. */
  get state(): PeerState {
    return this.#half.state;
  }

  /** True when the source will never ask for this migration again. */
  get settled(): boolean {
    return this.#half.settled;
  }

  /** Resolves when the guest is ours or nothing of it is left; at once where it is not loaded. */
  async handedOver(): Promise<void> {
    await this.#half.decider.idle();
    const { record } = this.#half.decider.state;
    if (record === 'LOADED' || record === 'OWNED') await this.#half.over.promise;
  }

  /** Begins to ask the source from time to time whether the migration still goes on. */
  follow(): void {
    followSource(this.#half);
  }

  /** Runs a step once, however often it is asked for. A step that fails ends the migration here. */
  step<T>(
    name: string,
    phase: Phase | undefined,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const body = async (signal: AbortSignal) => {
      if (phase) this.enter(phase);
      return await run(signal);
    };
    return this.#half.steps.run(name, body, (error) => this.#half.giveUp(error));
  }

  /** The same, except that a failure for this reason ends nothing: the source may try again. */
  stepThatMayBreak<T>(
    name: string,
    spared: Reason,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#half.steps.run(name, run, async (error) => {
      if (asReasoned(error).reason !== spared) await this.#half.giveUp(error);
    });
  }

  /** For what may be done again and again, as long as the migration goes on here. */
  during<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#half.steps.during(run);
  }

  enter(phase: Phase): void {
    this.#half.enter(phase);
  }

  /** What the domain layer must know to start the incoming QEMU. */
  incomingRequest(launchSpec: LaunchSpec): IncomingRequest {
    const { migrationId, attempt, epoch, generation, sourceHost } = this.#half.parts.header;
    const here = { epoch, generation: generation + 1 };
    return { launchSpec, migrationId, attempt, sourceHost, ...here };
  }

  /** From now on the end of the migration removes this, unless the guest has become ours. */
  holds(incoming: IncomingDomain): void {
    this.#half.incoming = incoming;
    void incoming.died.then((error) => this.#half.qemuDied(error));
  }

  /** Writes that the guest is loaded here. */
  async loaded(details: object): Promise<void> {
    const { decider } = this.#half;
    await decider.decide({ type: 'loaded' }, details);
    if (!isComing(decider.state.record) && !isTaken(decider.state.record)) {
      throw this.#half.givenUp ?? new MigrationError('CANCELLED_BY', 'It was given up meanwhile.');
    }
  }

  /** Takes the guest, once, and answers what became of it however often it is asked. */
  take(guest: { readonly paused: boolean }): Promise<CommitOutcome> {
    return this.#half.taking.commit(this.#half.incoming, guest);
  }

  /**
   * The source gives up. Resolves when nothing is left here; does nothing once the guest is ours.
   */
  async abort(): Promise<void> {
    const { incoming, ending } = this.#half;
    if (ending !== undefined) return await ending;
    // A source that gives up because our QEMU died should hear so, even if it noticed first.
    const died = incoming && !incoming.alive ? await incoming.died : undefined;
    await this.#half.giveUp(
      died ?? new MigrationError('CANCELLED_BY', 'The source gave the migration up.'),
    );
  }

  /** The source will never run the guest again. */
  async sourceGone(): Promise<void> {
    await this.#half.decider.decide({ type: 'source-gone' });
    await this.#half.closeIfSettled();
  }

  /** True until the guest is taken, or the migration has ended here. */
  get coming(): boolean {
    return !this.#half.taking.begun && isComing(this.#half.decider.state.record);
  }

  /** Gives it up for what the source has not done; does nothing once the guest is being taken. */
  async expire(error: MigrationError): Promise<void> {
    await this.#half.giveUp(error);
  }

  /** How its images stand, as far as that is known. */
  async written(): Promise<Written | undefined> {
    return await this.#half.incoming?.written?.();
  }

  get migration(): Migration {
    return this.#half.parts.tracker.now;
  }

  get journal(): ReadJournal {
    return this.#half.parts.journal;
  }

  /** True where a person may have to say who has the guest. */
  get undecided(): boolean {
    const { record, confirmed } = this.#half.decider.state;
    return isTaken(record) && !confirmed;
  }

  /** Asks the source what its journal says. */
  query(options: WaitOptions): Promise<PeerState> {
    return this.#half.parts.source.query(this.state, options);
  }

  /** True where nobody else is needed once the source has said this. */
  settledBy({ record, rank }: PeerState): boolean {
    const { state } = this.#half.decider;
    const after = stepDestination(state, { type: 'peer', record, rank } as DestinationEvent).state;
    return after.confirmed || after.record !== state.record;
  }

  /** A person says who has the guest: false where this host knows it, and nothing is done. */
  async resolve(by: 'reclaim' | 'relinquish', audit: object): Promise<boolean> {
    const { decider, parts } = this.#half;
    const before = decider.state;
    if (!this.undecided) return false;
    await parts.journal.append('RESOLVED', { ...audit });
    const effects = await decider.decide({ type: 'resolved', by });
    if (by === 'relinquish') standBack(this.#half, before.record);
    this.#half.holdDomain();
    await carryOut(this.#half, effects, new MigrationError('CANCELLED_BY', 'A person said so.'));
    // One that is only just coming gets it when it has arrived.
    if (by === 'reclaim') await this.#half.raiseEpoch().catch(unlessComing);
    return decider.state !== before;
  }

  /** Goes on where an earlier life of the agent ended; see `recoverDestination`. */
  async recover(incoming: IncomingDomain | undefined): Promise<void> {
    await recoverDestination(this.#half, incoming);
  }

  /** The agent ends: the next life goes on. */
  leave(): void {
    this.#half.leave();
  }
}

function unlessComing(error: unknown): void {
  if (asReasoned(error).reason !== 'DOMAIN_NOT_FOUND') throw error;
}

import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { IncomingDomain, IncomingRequest, LaunchSpec } from '../domain/types.js';
import type { Log } from '../util/log.js';
import { asReasoned, type Failure, MigrationError, toFailure } from './errors.js';
import {
  type DestinationEvent,
  type DestinationRecord,
  destinationMayRun,
  stepDestination,
} from './handover.js';
import type { CommitOutcome, PeerHeader } from './peer.js';
import type { Phase } from './phase.js';
import type { SourcePeer } from './source-peer.js';
import type { Tracker } from './tracker.js';

const RESUME_LIMIT_MS = 10_000;
const RESUME_AGAIN_MS = 1_000;

/**
 * What the destination's flow needs besides the domains and the source: steps, decisions, the end.
 */
export class DestinationContext {
  readonly #header: PeerHeader;
  readonly #tracker: Tracker;
  readonly #source: SourcePeer;
  readonly #log: Log;
  readonly #steps = new Map<string, Promise<unknown>>();
  readonly #bodies = new Set<Promise<unknown>>();
  readonly #controller = new AbortController();
  #record: DestinationRecord = 'PREPARED';
  #incoming: IncomingDomain | undefined;
  #ending: Promise<void> | undefined;
  #outcome: Promise<CommitOutcome> | undefined;
  /** From the commit until it is refused: then nothing else may give the guest up. */
  #taking = false;
  ticket: string | undefined;

  constructor(header: PeerHeader, tracker: Tracker, source: SourcePeer, log: Log) {
    this.#header = header;
    this.#tracker = tracker;
    this.#source = source;
    this.#log = log;
    source.follow(
      () => this.#record === 'LOADED',
      (reason) => void this.#giveUp(reason),
    );
  }

  get record(): DestinationRecord {
    return this.#record;
  }

  get failure(): Failure | undefined {
    return this.#tracker.now.failure;
  }

  /** Runs a step once, however often it is asked for. A step that fails ends the migration here. */
  step<T>(
    name: string,
    phase: Phase | undefined,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const known = this.#steps.get(name);
    if (known !== undefined) return known as Promise<T>;
    const running = this.#run(phase, run);
    this.#steps.set(name, running);
    return running;
  }

  async #run<T>(phase: Phase | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    try {
      if (phase) await this.enter(phase);
      this.#controller.signal.throwIfAborted();
      const body = run(this.#controller.signal);
      this.#bodies.add(body);
      return await body;
    } catch (error) {
      await this.#giveUp(error);
      throw error;
    }
  }

  async enter(phase: Phase): Promise<void> {
    this.#tracker.enter(phase);
    this.#log.info({ phase }, 'entered a phase');
  }

  /** What the domain layer must know to start the incoming QEMU. */
  incomingRequest(launchSpec: LaunchSpec): IncomingRequest {
    const { migrationId, attempt, generation, sourceHost } = this.#header;
    return { launchSpec, migrationId, attempt, generation: generation + 1, sourceHost };
  }

  /** From now on the end of the migration removes this, unless the guest has become ours. */
  holds(incoming: IncomingDomain): void {
    this.#incoming = incoming;
    void incoming.died.then((error) => this.#giveUp(error));
  }

  /** Makes the one ticket that opens the RAM stream: 256 random bits. */
  issueTicket(): string {
    this.ticket = randomBytes(32).toString('base64url');
    return this.ticket;
  }

  /**
   * Lets the reducer decide, and keeps its record. LOADED is a promise only to ourselves: not
   * durable yet.
   */
  async decide(event: DestinationEvent): Promise<void> {
    const { state, effects } = stepDestination(this.#record, event);
    for (const effect of effects) {
      if (effect.type === 'write' && effect.record === 'OWNED') await this.#incoming?.own();
    }
    this.#record = state;
  }

  /** Takes the guest, once, and answers what became of it however often it is asked. */
  take(incoming: IncomingDomain, guest: { readonly paused: boolean }): Promise<CommitOutcome> {
    this.#outcome ??= this.#take(incoming, guest);
    return this.#outcome;
  }

  async #take(
    incoming: IncomingDomain,
    guest: { readonly paused: boolean },
  ): Promise<CommitOutcome> {
    if (this.#record !== 'LOADED') return this.#refuse(incoming, notLoaded(this.#record));
    this.#taking = true;
    await this.enter('handover');
    try {
      await this.decide({ type: 'commit' });
    } catch (error) {
      // OWNED could not be written, so the guest was not touched.
      return this.#refuse(incoming, error);
    }
    for (;;) {
      try {
        await incoming.resume(guest, { signal: AbortSignal.timeout(RESUME_LIMIT_MS) });
        break;
      } catch (error) {
        // The source may have it back only where it is certain that it never ran here.
        if (!incoming.mayHaveRun) return this.#refuse(incoming, error);
        if (!incoming.alive) return this.#lose(incoming, error);
        this.#log.error({ err: error }, 'could not resume the guest; trying again');
        await delay(RESUME_AGAIN_MS);
      }
    }
    await this.decide({ type: 'resumed' });
    this.#settle(incoming);
    this.#tracker.enter('cleanup');
    this.#tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
    this.#log.info({}, 'the guest is here');
    return { outcome: 'RUNNING' };
  }

  // The guest may have run here, so this host's images are the ones that count, though QEMU is
  // gone.
  async #lose(incoming: IncomingDomain, error: unknown): Promise<CommitOutcome> {
    this.#settle(incoming);
    const failure = toFailure(error, 'destination', 'handover');
    this.#tracker.end({ state: 'FAILED', runningOn: 'NOWHERE', failure });
    this.#log.error({ err: error }, 'the guest was taken and its QEMU is gone');
    return { outcome: 'OWNED_LOST' };
  }

  // The source may run the guest after this answer, so it is given only when nothing durable here
  // says otherwise.
  async #refuse(incoming: IncomingDomain, error: unknown): Promise<CommitOutcome> {
    try {
      await this.#incoming?.disown();
    } catch (cause) {
      return this.#lose(incoming, cause);
    }
    this.#taking = false;
    await this.#giveUp(error, this.#record === 'OWNED' ? { type: 'never-ran' } : { type: 'abort' });
    return { outcome: 'REFUSED', failure: this.failure };
  }

  #settle(incoming: IncomingDomain): void {
    this.#source.unfollow();
    incoming.release();
  }

  /**
   * The source gives up. Resolves when nothing is left here; does nothing once the guest is ours.
   */
  async abort(): Promise<void> {
    if (this.#record === 'ABORTED') return await this.#ending;
    if (destinationMayRun(this.#record)) return;
    // A source that gives up because our QEMU died should hear so, even if it noticed first.
    const died = this.#incoming && !this.#incoming.alive ? await this.#incoming.died : undefined;
    await this.#giveUp(
      died ?? new MigrationError('CANCELLED_BY', 'The source gave the migration up.'),
    );
  }

  async #giveUp(error: unknown, event: DestinationEvent = { type: 'abort' }): Promise<void> {
    if (this.#taking) return;
    const { state } = stepDestination(this.#record, event);
    if (state !== 'ABORTED') return;
    this.#record = state;
    this.#ending ??= this.#end(asReasoned(error));
    await this.#ending;
  }

  async #end(error: Error): Promise<void> {
    this.#source.unfollow();
    this.#controller.abort(error);
    // A step that is under way may still make things; they can be removed only when it has ended.
    await Promise.allSettled(this.#bodies);
    await this.#incoming?.[Symbol.asyncDispose]();
    const failure = toFailure(error, 'destination', this.#tracker.now.phase);
    const state = failure.reason === 'CANCELLED_BY' ? 'CANCELLED' : 'FAILED';
    this.#tracker.end({ state, runningOn: 'SOURCE', failure });
    this.#log.info({ reason: failure.reason }, 'nothing of the migration is left here');
  }
}

function notLoaded(record: DestinationRecord): MigrationError {
  return new MigrationError('DEST_QEMU_DIED', `The guest is not loaded here (${record}).`, {
    side: 'destination',
  });
}

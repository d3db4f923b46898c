import { setTimeout as delay } from 'node:timers/promises';
import type { IncomingDomain } from '../domain/types.js';
import { type Deferred, deferred } from '../util/deferred.js';
import type { Log } from '../util/log.js';
import type { Decider } from './decider.js';
import { type Failure, MigrationError } from './errors.js';
import type { DestinationEvent, DestinationState } from './handover-types.js';
import { isTaken } from './handover-types.js';
import type { CommitOutcome } from './peer.js';

const RESUME_LIMIT_MS = 10_000;
const RESUME_AGAIN_MS = 1_000;

/** What taking the guest needs of the destination's agent. */
export interface TakingPorts {
  /** The guest is about to be resumed. */
  begins(): void;
  /** The guest is this host's: it runs, or `error` says why its QEMU has gone. */
  taken(error?: unknown): void;
  /** Removes everything that was made here; resolves when nothing is left. */
  discard(error: unknown): Promise<void>;
  failure(): Failure | undefined;
}

/**
 * The destination's half of the handover: takes the guest in writing and resumes it. Every decision
 * is `stepDestination`'s; here is only what it takes to carry it out.
 */
export class Taking {
  readonly #decider: Decider<DestinationState, DestinationEvent>;
  readonly #ports: TakingPorts;
  readonly #log: Log;
  #outcome: Promise<CommitOutcome> | undefined;
  /** Resolves when the source has said that the guest may run here, or that it may not. */
  readonly #confirmed: Deferred<void> = deferred();
  #begun = false;
  #lost: boolean;
  #beganMs = 0;

  /** `lost`: an earlier life of the agent has found its QEMU gone. */
  constructor(
    decider: Decider<DestinationState, DestinationEvent>,
    ports: TakingPorts,
    log: Log,
    lost: boolean,
  ) {
    this.#decider = decider;
    this.#ports = ports;
    this.#log = log;
    this.#lost = lost;
  }

  /** True from the commit on: nothing else may give the guest up then. */
  get begun(): boolean {
    return this.#begun;
  }

  /**
   * Takes the guest, once, and answers what became of it however often it is asked.
   *
   * @throws AppendError where that cannot be written: the source is to ask again
   */
  commit(
    incoming: IncomingDomain | undefined,
    guest: { readonly paused: boolean },
  ): Promise<CommitOutcome> {
    this.#beganMs = performance.now();
    this.#outcome ??= this.#remembered(this.#commit(incoming, guest));
    return this.#outcome;
  }

  /** Goes on with a guest that was taken, now that it is known that it may run here. */
  async goOn(
    incoming: IncomingDomain | undefined,
    guest: { readonly paused: boolean },
  ): Promise<void> {
    this.#confirmed.resolve();
    this.#outcome ??= this.#remembered(this.#run(incoming, guest, { mayHaveRun: true }));
    await this.#outcome;
  }

  /** It is known now that the guest is the source's. */
  giveBack(): void {
    this.#confirmed.resolve();
  }

  /** What could not be written is tried again by the next call. */
  async #remembered(work: Promise<CommitOutcome>): Promise<CommitOutcome> {
    this.#begun = true;
    try {
      return await work;
    } catch (error) {
      this.#outcome = undefined;
      throw error;
    }
  }

  async #commit(
    incoming: IncomingDomain | undefined,
    guest: { readonly paused: boolean },
  ): Promise<CommitOutcome> {
    const asked = this.#decider.state;
    // Where this throws, OWNED may or may not be on the disk: the loaded guest stays as it is, and
    // the next call, or the next life of the agent, tries again.
    const effects = await this.#decider.decide({ type: 'commit' }, guest);
    const over = this.#decider.state.record === 'ABORTED';
    if (over && effects.some(({ type }) => type === 'refuse')) {
      return await this.#refuse(notLoaded(asked), { type: 'abort' });
    }
    const known = effects.some(({ type }) => type === 'ask-peer');
    if (known) await this.#confirmed.promise;
    const { record } = this.#decider.state;
    if (record === 'OWNED') return await this.#run(incoming, guest, { mayHaveRun: known });
    if (isTaken(record)) return this.#lost ? { outcome: 'OWNED_LOST' } : this.#runs();
    return { outcome: 'REFUSED', failure: this.#ports.failure() };
  }

  async #run(
    incoming: IncomingDomain | undefined,
    guest: { readonly paused: boolean },
    past: { readonly mayHaveRun: boolean },
  ): Promise<CommitOutcome> {
    this.#ports.begins();
    for (;;) {
      try {
        if (!incoming) throw lostQemu();
        await incoming.resume(guest, { signal: AbortSignal.timeout(RESUME_LIMIT_MS) });
        break;
      } catch (error) {
        // The source may have it back only where it is certain that it never ran here.
        if (!past.mayHaveRun && !incoming?.mayHaveRun) {
          await incoming?.kill();
          return await this.#refuse(error, { type: 'never-ran' });
        }
        if (!incoming?.alive) return await this.#lose(error);
        this.#log.error({ err: error }, 'could not resume the guest; trying again');
        await delay(RESUME_AGAIN_MS);
      }
    }
    await this.#write({ type: 'resumed' });
    this.#ports.taken();
    this.#log.info({}, 'the guest is here');
    return this.#runs();
  }

  #runs(): CommitOutcome {
    const journalUs = this.#decider.tookUs('LOADED', 'OWNED', 'RUNNING');
    const handledUs = Math.round((performance.now() - this.#beganMs) * 1000);
    return { outcome: 'RUNNING', cost: { journalUs, handledUs } };
  }

  // The guest may have run here, so this host's images are the ones that count, though QEMU is
  // gone.
  async #lose(error: unknown): Promise<CommitOutcome> {
    this.#lost = true;
    await this.#write({ type: 'lost' }, { lost: true });
    this.#ports.taken(error ?? lostQemu());
    this.#log.error({ err: error }, 'the guest was taken and its QEMU is gone');
    return { outcome: 'OWNED_LOST' };
  }

  // The source may run the guest after this answer, and OWNED may be on the disk: nothing is
  // removed and nothing is said before ABORTED is there.
  async #refuse(error: unknown, event: DestinationEvent): Promise<CommitOutcome> {
    await this.#decider.decide(event);
    await this.#ports.discard(error);
    return { outcome: 'REFUSED', failure: this.#ports.failure() };
  }

  async #write(event: DestinationEvent, details: object = {}): Promise<void> {
    await this.#decider.decide(event, details).catch((error) => {
      this.#log.error({ err: error, event: event.type }, 'the journal could not be written');
    });
  }
}

function notLoaded({ record }: DestinationState): MigrationError {
  return new MigrationError('DEST_QEMU_DIED', `The guest is not loaded here (${record}).`, {
    side: 'destination',
  });
}

function lostQemu(): MigrationError {
  return new MigrationError('DEST_QEMU_DIED', 'The QEMU of the guest has gone.', {
    side: 'destination',
  });
}

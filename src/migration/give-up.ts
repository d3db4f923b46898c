import { setTimeout as delay } from 'node:timers/promises';
import type { SourceGuard } from '../domain/types.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { linkSignals } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import type { Decider } from './decider.js';
import { asReasoned, type Failure, MigrationError } from './errors.js';
import type { SourceEvent, SourceState } from './handover-types.js';
import { isUndecided } from './handover-types.js';
import type { CommitOutcome, PeerCalls, PeerHeader } from './peer.js';

const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 10_000;
const ALARM_MS = 15_000;

/** What giving the guest up needs of the source's agent. */
export interface GiveUpPorts {
  /**
   * Told when the destination has not answered for too long, and when it has answered after that.
   */
  inDoubt(failure: Error | undefined): void;
  /** Told when COMMITTED is written, and when the guest is known to run on the destination. */
  note(moment: 'committed' | 'resumed'): void;
  /** Fires when the agent stops; the handover is then left to the next life of the agent. */
  readonly stopping: AbortSignal;
}

/** A guest that is given up: whether its user had paused it, and what was re-read before. */
export interface GivenGuest {
  readonly paused: boolean;
  /** Undefined where an earlier life of the agent has committed already. */
  readonly guard?: SourceGuard & { readonly voted: boolean };
}

/**
 * The source's half of the handover: gives the guest up in writing and asks until the destination
 * has answered. Every decision is `stepSource`'s; here is only what it takes to carry it out.
 */
export class GiveUp {
  /**
   * True when the destination took the guest and its QEMU is gone: it must be started over there.
   */
  lost = false;
  /** What the answer took besides what the destination had to do to run the guest, in us. */
  safetyUs = 0;
  readonly #decider: Decider<SourceState, SourceEvent>;
  readonly #calls: PeerCalls;
  readonly #ports: GiveUpPorts;
  readonly #log: Log;
  /** Resolves when it has been decided some other way than by the answer to the commit. */
  readonly #decided: Deferred<MigrationError> = deferred();
  readonly #asking = new AbortController();

  constructor(
    decider: Decider<SourceState, SourceEvent>,
    calls: PeerCalls,
    ports: GiveUpPorts,
    log: Log,
  ) {
    this.#decider = decider;
    this.#calls = calls;
    this.#ports = ports;
    this.#log = log;
  }

  /** True once the destination has the guest, or may have it. */
  get taken(): boolean {
    const { record } = this.#decider.state;
    return record === 'COMMITTED' || record === 'DONE';
  }

  /**
   * Resolves when the destination has the guest; throws when it refused, or a person said so, and
   * the guest is ours again.
   */
  async run(header: PeerHeader, guest: GivenGuest): Promise<void> {
    try {
      await this.#commit(header, guest);
      await this.#settle(header, guest);
    } catch (error) {
      if (!this.taken) throw error;
      // The flow must not unwind now: unwinding lets the guest run here, and it may run over there.
      // What is left is for an operator or for the next life of the agent.
      this.#ports.inDoubt(asReasoned(error));
      await new Promise<never>(() => {});
    }
  }

  /**
   * Takes an event that decides who has the guest while the destination is asked: a person's word,
   * or the destination's own question. `why` is what the flow ends with if the guest is ours again.
   */
  async hear(event: SourceEvent, why: MigrationError): Promise<boolean> {
    const effects = await this.#decider.decide(event);
    if (effects.length > 0) this.#decided.resolve(why);
    return effects.length > 0;
  }

  async #commit(header: PeerHeader, { guard, paused }: GivenGuest): Promise<void> {
    if (!isUndecided(this.#decider.state.record)) return;
    const observed = guard ?? { fenced: false, settled: false, voted: false };
    try {
      await this.#decider.decide({ type: 'loaded', guard: observed }, { paused });
    } catch (error) {
      // COMMITTED may be on the disk all the same, and the next life of the agent would believe it.
      // It was not sent, so the destination can still be made to give up before the guest runs
      // here.
      await this.#untilAnswered(header, () => this.#revoke(header));
      throw error;
    }
    if (!this.taken) throw unguarded(observed);
    this.#ports.note('committed');
  }

  async #settle(header: PeerHeader, guest: GivenGuest): Promise<void> {
    const answer = await Promise.race([
      this.#untilAnswered(header, (signal) => this.#ask(header, guest, signal)),
      this.#decided.promise,
    ]);
    this.#asking.abort(new Error('The question has been answered.'));
    this.#ports.note('resumed');
    this.#ports.inDoubt(undefined);
    if (answer instanceof MigrationError) {
      if (!this.taken) throw answer;
      return;
    }
    if (answer.outcome === 'REFUSED') {
      await this.#written({ type: 'refused' });
      throw refusal(header.destinationHost, answer.failure);
    }
    if (answer.outcome === 'OWNED_LOST') {
      this.lost = true;
      this.#log.error(
        {},
        'the destination took the guest and lost its QEMU; its images are the ones',
      );
    }
    await this.#written({ type: 'taken' });
  }

  async #ask(header: PeerHeader, guest: GivenGuest, signal: AbortSignal): Promise<CommitOutcome> {
    const beganMs = performance.now();
    const answer = await this.#calls.commit(header, guest, { signal });
    if (answer.outcome === 'RUNNING') {
      const { journalUs, handledUs } = answer.cost;
      const tookUs = (performance.now() - beganMs) * 1000;
      this.safetyUs = Math.max(0, tookUs - handledUs) + journalUs;
    }
    return answer;
  }

  /** What the destination has answered stays true: a journal that is full is tried again. */
  async #written(event: SourceEvent): Promise<void> {
    for (let pauseMs = FIRST_RETRY_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_RETRY_MS)) {
      try {
        await this.#decider.decide(event);
        return;
      } catch (error) {
        if ((error as { broken?: boolean }).broken) throw error;
        this.#log.error({ err: error }, 'the journal could not be written; trying again');
      }
      await delay(pauseMs, undefined, { signal: this.#ports.stopping });
    }
  }

  async #revoke(header: PeerHeader): Promise<void> {
    const { record } = await this.#calls.revoke(header, { signal: this.#ports.stopping });
    if (record === 'ABORTED' || record === 'SUPERSEDED') return;
    throw new MigrationError('OWNERSHIP_UNKNOWN', `The destination says ${record} to the revoke.`);
  }

  async #untilAnswered<T>(
    header: PeerHeader,
    ask: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    using asking = linkSignals(this.#ports.stopping, this.#asking.signal);
    const { signal } = asking;
    const alarm = setTimeout(() => this.#ports.inDoubt(unanswered(header)), ALARM_MS);
    try {
      for (let pauseMs = FIRST_RETRY_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_RETRY_MS)) {
        try {
          return await ask(signal);
        } catch (error) {
          // No answer is never a no: the guest stays paused here until the destination has spoken.
          this.#log.warn(
            { err: error, reason: asReasoned(error).reason },
            'no answer to the commit',
          );
        }
        await delay(pauseMs, undefined, { signal });
      }
    } finally {
      clearTimeout(alarm);
    }
  }
}

function unguarded(guard: SourceGuard & { readonly voted: boolean }): MigrationError {
  const { fenced, settled, voted } = guard;
  return new MigrationError(
    'RAM_FAILED',
    'The guest was not given up, because its QEMU had been told something else meanwhile.',
    { side: 'source', facts: { fenced: `${fenced}`, settled: `${settled}`, voted: `${voted}` } },
  );
}

function unanswered(header: PeerHeader): MigrationError {
  return new MigrationError(
    'OWNERSHIP_UNKNOWN',
    `${header.destinationHost} has not answered the commit for ${ALARM_MS / 1000} s.`,
    { facts: { migration_id: header.migrationId, destination_host: header.destinationHost } },
  );
}

function refusal(host: string, failure: Failure | undefined): MigrationError {
  // That it was cancelled, it has from us: from an earlier life of this agent.
  const echo = failure?.reason === 'CANCELLED_BY';
  const reason = echo ? 'AGENT_RESTARTED' : (failure?.reason ?? 'DEST_QEMU_DIED');
  const message = failure?.message ?? `${host} refused the guest.`;
  return new MigrationError(reason, message, { side: 'destination' });
}

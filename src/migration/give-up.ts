import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../util/log.js';
import { asReasoned, type Failure, MigrationError } from './errors.js';
import {
  type HandoverRecord,
  type SourceEvent,
  type SourceRecord,
  stepSource,
} from './handover.js';
import type { CommitOutcome, PeerCalls, PeerHeader } from './peer.js';

const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 10_000;
const ALARM_MS = 15_000;

/** What giving the guest up needs of the source's agent. */
export interface GiveUpPorts {
  /** Writes a record durably, or throws and has not written it. */
  write(record: HandoverRecord): Promise<void>;
  /**
   * Told when the destination has not answered for too long, and when it has answered after that.
   */
  inDoubt(failure: Error | undefined): void;
  /** Told when COMMITTED is written, and when the guest is known to run on the destination. */
  note(moment: 'committed' | 'resumed'): void;
  /** Fires when the agent stops; the handover is then left to the next life of the agent. */
  readonly stopping: AbortSignal;
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
  #record: SourceRecord = 'STARTED';
  readonly #calls: PeerCalls;
  readonly #ports: GiveUpPorts;
  readonly #log: Log;

  constructor(calls: PeerCalls, ports: GiveUpPorts, log: Log) {
    this.#calls = calls;
    this.#ports = ports;
    this.#log = log;
  }

  get record(): SourceRecord {
    return this.#record;
  }

  /** True once the destination has the guest, or may have it. */
  get taken(): boolean {
    return this.#record === 'COMMITTED' || this.#record === 'DONE';
  }

  /**
   * Resolves when the destination has the guest; throws when it refused and the guest is ours
   * again.
   */
  async run(header: PeerHeader, guest: { readonly paused: boolean }): Promise<void> {
    try {
      await this.#handOver(header, guest);
    } catch (error) {
      if (!this.taken) throw error;
      // The flow must not unwind now: unwinding lets the guest run here, and it may run over there.
      // What is left is for an operator or for the next life of the agent.
      this.#ports.inDoubt(asReasoned(error));
      await new Promise<never>(() => {});
    }
  }

  async #handOver(header: PeerHeader, guest: { readonly paused: boolean }): Promise<void> {
    await this.#apply({ type: 'loaded' });
    this.#ports.note('committed');
    const answer = await this.#commitUntilAnswered(header, guest);
    this.#ports.note('resumed');
    this.#ports.inDoubt(undefined);
    if (answer.outcome === 'REFUSED') {
      await this.#apply({ type: 'refused' });
      throw refusal(header.destinationHost, answer.failure);
    }
    if (answer.outcome === 'OWNED_LOST') {
      this.lost = true;
      this.#log.error(
        {},
        'the destination took the guest and lost its QEMU; its images are the ones',
      );
    }
    await this.#apply({ type: 'taken' });
  }

  /** The migration was given up before the handover. */
  async fail(): Promise<void> {
    await this.#apply({ type: 'failed' });
  }

  // The effects besides writing are the flow's own next lines: sending the commit, retiring the
  // domain, or letting it run here again when the flow unwinds.
  async #apply(event: SourceEvent): Promise<void> {
    const { state, effects } = stepSource(this.#record, event);
    for (const effect of effects) {
      if (effect.type === 'write') await this.#ports.write(effect.record);
    }
    this.#record = state;
  }

  async #commitUntilAnswered(
    header: PeerHeader,
    guest: { readonly paused: boolean },
  ): Promise<CommitOutcome> {
    const signal = this.#ports.stopping;
    const alarm = setTimeout(() => this.#ports.inDoubt(unanswered(header)), ALARM_MS);
    try {
      for (let pauseMs = FIRST_RETRY_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_RETRY_MS)) {
        try {
          return await this.#calls.commit(header, guest, { signal });
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

function unanswered(header: PeerHeader): MigrationError {
  return new MigrationError(
    'OWNERSHIP_UNKNOWN',
    `${header.destinationHost} has not answered the commit for ${ALARM_MS / 1000} s.`,
    { facts: { migration_id: header.migrationId, destination_host: header.destinationHost } },
  );
}

function refusal(host: string, failure: Failure | undefined): MigrationError {
  const reason = failure?.reason ?? 'DEST_QEMU_DIED';
  const message = failure?.message ?? `${host} refused the guest.`;
  return new MigrationError(reason, message, { side: 'destination' });
}

import type {
  DiskServerAddress,
  LaunchSpec,
  RamChannel,
  RamPause,
  WaitOptions,
} from '../domain/types.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { asReasoned, type Failure, MigrationError } from './errors.js';
import { GiveUp, type GiveUpPorts } from './give-up.js';
import type { PeerCalls, PeerHeader, Vote } from './peer.js';

const ABORT_LIMIT_MS = 10_000;
/** The guest is paused here meanwhile, and nothing is lost by letting it run here again. */
const VOTE_LIMIT_MS = 30_000;

/** The destination as the source's flow sees it. */
export interface DestinationPeer {
  readonly host: string;
  /** Asks it to start the twin QEMU. Disposing the twin before the handover removes it again. */
  prepare(launchSpec: LaunchSpec, options: WaitOptions): Promise<Twin>;
}

/** The twin of the running QEMU, on the destination. */
export interface Twin extends AsyncDisposable {
  exportDisks(options: WaitOptions): Promise<DiskServerAddress>;
  /** Makes it wait for RAM, and begins to wait for the vote. */
  acceptRam(options: WaitOptions): Promise<RamChannel>;
  /** Resolves with the vote: the guest is loaded and paused over there. */
  loaded(options: WaitOptions): Promise<Vote>;
  /** @throws MigrationError only when the destination has proved that it never took the guest. */
  handOver(pause: RamPause): Promise<void>;
  /** Tells it that nothing of the guest is left here. */
  sourceGone(): Promise<void>;
}

/** Speaks for one migration with its destination. */
export class MigrationPeer implements DestinationPeer, Twin {
  readonly host: string;
  /** Why the destination gave up, as far as it said so. */
  failure: Failure | undefined;
  #header: PeerHeader;
  readonly #calls: PeerCalls;
  readonly giveUp: GiveUp;
  readonly #log: Log;
  readonly #vote = deferred<Vote>();
  readonly #ended = new AbortController();

  constructor(header: PeerHeader, calls: PeerCalls, ports: GiveUpPorts, log: Log) {
    this.host = header.destinationHost;
    this.#header = header;
    this.#calls = calls;
    this.giveUp = new GiveUp(calls, ports, log);
    this.#log = log;
    // The vote may fail long before anybody waits for it.
    this.#vote.promise.catch(() => {});
  }

  async prepare(launchSpec: LaunchSpec, options: WaitOptions): Promise<Twin> {
    try {
      const { journalId } = await this.#calls.prepare(this.#header, launchSpec, options);
      this.#header = { ...this.#header, destinationJournalId: journalId };
      return this;
    } catch (error) {
      // The answer may have been lost while the destination holds everything already.
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  exportDisks(options: WaitOptions): Promise<DiskServerAddress> {
    return this.#calls.exportDisks(this.#header, options);
  }

  async acceptRam(options: WaitOptions): Promise<RamChannel> {
    const { ticket } = await this.#calls.acceptRam(this.#header, options);
    this.#askForVote().then(this.#vote.resolve, this.#vote.reject);
    return { open: (wait) => this.#calls.openRam(ticket, wait) };
  }

  async loaded(options: WaitOptions): Promise<Vote> {
    using limit = withTimeout(options.signal, VOTE_LIMIT_MS, () => noVote(this.host));
    return await untilAborted(this.#vote.promise, limit.signal);
  }

  handOver(pause: RamPause): Promise<void> {
    return this.giveUp.run(this.#header, { paused: pause.guestPaused });
  }

  async sourceGone(): Promise<void> {
    using limit = withTimeout(undefined, ABORT_LIMIT_MS, () => lost(this.host));
    try {
      await this.#calls.sourceGone(this.#header, { signal: limit.signal });
    } catch (error) {
      // It only lets the destination forget sooner.
      this.#log.warn({ err: error }, 'the destination did not hear that the source is gone');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new MigrationError('CANCELLED_BY', 'The migration has ended.'));
    if (this.giveUp.taken) return;
    using limit = withTimeout(undefined, ABORT_LIMIT_MS, () => lost(this.host));
    try {
      const state = await this.#calls.abort(this.#header, { signal: limit.signal });
      this.failure = state.failure;
    } catch (error) {
      this.#log.warn({ err: error }, 'the destination did not hear of the rollback');
    }
  }

  // One long call after the other; a peer that cannot be reached for a moment is asked again,
  // because the guest still runs here and nothing is lost by waiting for it.
  async #askForVote(): Promise<Vote> {
    const signal = this.#ended.signal;
    for (let losses = 0; ; ) {
      try {
        return await this.#calls.awaitLoaded(this.#header, { signal });
      } catch (error) {
        const { reason } = asReasoned(error);
        if (reason === 'PEER_UNREACHABLE' && ++losses <= 3) continue;
        if (reason !== 'STALLED') throw error;
      }
    }
  }
}

function noVote(host: string): MigrationError {
  return new MigrationError(
    'STALLED',
    `${host} has all of the guest and did not say within ${VOTE_LIMIT_MS / 1000} s that it is loaded.`,
    { side: 'destination', facts: { limit_ms: VOTE_LIMIT_MS } },
  );
}

function lost(host: string): MigrationError {
  return new MigrationError('PEER_LOST', `The agent of ${host} did not answer in time.`);
}

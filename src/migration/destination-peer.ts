import { setTimeout as delay } from 'node:timers/promises';
import type { Transport } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from '../domain/launch-spec.js';
import type { DataProbe, RamPause, SourceGuard, WaitOptions } from '../domain/types.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { asReasoned, type Failure, MigrationError } from './errors.js';
import type { GiveUp } from './give-up.js';
import { INGRESS_FEATURE, type IngressAnswer, type IngressAsk } from './ingress.js';
import type { IngressPeer } from './ingress-share.js';
import type { PeerCalls, PeerHeader, PeerState, Vote } from './peer.js';

const ABORT_LIMIT_MS = 10_000;
/** How long an agent may take to start again while its QEMU goes on. */
const RESTART_LIMIT_MS = 15_000;
const RESTART_PAUSE_MS = 250;
/** How often a peer may be out of reach while the guest is paused. */
const LOSSES = 3;
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
  readonly host: string;
  /** Opens a port there that may be tried from here. */
  openProbe(options: WaitOptions): Promise<DataProbe>;
  exportDisks(transport: Transport, options: WaitOptions): Promise<DiskServerAddress>;
  /**
   * Makes it wait for RAM, and begins to wait for the vote. From the second time on that is another
   * QEMU on the same images, for RAM that has to be sent again.
   */
  acceptRam(transport: Transport, options: WaitOptions): Promise<RamServerAddress>;
  /** Resolves when its agent answers; waits for one that starts again. */
  present(options: WaitOptions): Promise<void>;
  /** Resolves with the vote: the guest is loaded and paused over there. */
  loaded(options: WaitOptions): Promise<Vote>;
  /**
   * Gives the guest up and asks until the destination has it. `guard` is undefined where an earlier
   * life of the agent has given it up already.
   *
   * @throws MigrationError only when the destination has proved that it never took the guest
   */
  handOver(pause: Pick<RamPause, 'guestPaused'>, guard?: SourceGuard): Promise<void>;
  /** Tells it that nothing of the guest is left here. */
  sourceGone(): Promise<void>;
}

/** What speaking for one migration needs. */
export interface MigrationPeerParts {
  readonly header: PeerHeader;
  readonly calls: PeerCalls;
  readonly giveUp: GiveUp;
  readonly log: Log;
  /** What the source's own journal says. */
  own(): PeerState;
  /** Writes by which journal the destination knows the migration. */
  prepared(journalId: string): Promise<void>;
}

/** Speaks for one migration with its destination. */
export class MigrationPeer implements DestinationPeer, Twin, IngressPeer {
  readonly host: string;
  /** Why the destination gave up, as far as it said so. */
  failure: Failure | undefined;
  /** True once it has answered an abort. */
  heardAbort = false;
  readonly #parts: MigrationPeerParts;
  #header: PeerHeader;
  readonly #calls: PeerCalls;
  #vote = deferred<Vote>();
  #features: readonly string[] = [];
  #accepted = false;
  /** True once the guest stands still until the vote has come. */
  #urgent = false;
  #votedBy: string | undefined;
  readonly #ended = new AbortController();

  constructor(parts: MigrationPeerParts) {
    this.host = parts.header.destinationHost;
    this.#parts = parts;
    this.#header = parts.header;
    this.#calls = parts.calls;
  }

  /** Counts the incoming QEMUs. */
  get attempt(): number {
    return this.#header.attempt;
  }

  async prepare(launchSpec: LaunchSpec, options: WaitOptions): Promise<Twin> {
    const known = this.#header.destinationJournalId;
    const header = { ...this.#header, destinationJournalId: '' };
    try {
      const prepared = await this.#calls.prepare(header, launchSpec, options);
      const { journalId } = prepared;
      this.#features = prepared.features;
      if (known !== '' && journalId !== known) throw forgotten(this.host);
      this.#header = { ...this.#header, destinationJournalId: journalId };
      await this.#parts.prepared(journalId);
      return this;
    } catch (error) {
      // The answer may have been lost while the destination holds everything already.
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  openProbe(options: WaitOptions): Promise<DataProbe> {
    return this.#patiently(options, () => this.#calls.probeData(this.#header, options));
  }

  exportDisks(transport: Transport, options: WaitOptions): Promise<DiskServerAddress> {
    return this.#patiently(options, () =>
      this.#calls.exportDisks(this.#header, transport, options),
    );
  }

  async acceptRam(transport: Transport, options: WaitOptions): Promise<RamServerAddress> {
    if (this.#accepted) this.#header = { ...this.#header, attempt: this.#header.attempt + 1 };
    this.#accepted = true;
    const server = await this.#patiently(options, () =>
      this.#calls.acceptRam(this.#header, transport, options),
    );
    const vote = deferred<Vote>();
    // The vote may fail long before anybody waits for it.
    vote.promise.catch(() => {});
    this.#vote = vote;
    this.#askForVote(this.#header).then(vote.resolve, vote.reject);
    return server;
  }

  async present(options: WaitOptions): Promise<void> {
    await this.#patiently(options, () => this.query(options));
  }

  async loaded(options: WaitOptions): Promise<Vote> {
    this.#urgent = true;
    using limit = withTimeout(options.signal, VOTE_LIMIT_MS, () => noVote(this.host));
    const vote = await untilAborted(this.#vote.promise, limit.signal);
    this.#votedBy = vote.journalId;
    return vote;
  }

  async handOver(pause: Pick<RamPause, 'guestPaused'>, guard?: SourceGuard): Promise<void> {
    const voted = this.#votedBy === this.#header.destinationJournalId;
    await this.#parts.giveUp.run(this.#header, {
      paused: pause.guestPaused,
      ...(guard ? { guard: { ...guard, voted } } : {}),
    });
  }

  async sourceGone(): Promise<void> {
    using limit = withTimeout(undefined, ABORT_LIMIT_MS, () => lost(this.host));
    try {
      await this.#calls.sourceGone(this.#header, { signal: limit.signal });
    } catch (error) {
      // The destination asks by itself until it knows.
      this.#parts.log.warn({ err: error }, 'the destination did not hear that the source is gone');
    }
  }

  get sharesIngress(): boolean {
    return this.#features.includes(INGRESS_FEATURE);
  }

  shareIngress(ask: IngressAsk, options: WaitOptions): Promise<IngressAnswer> {
    return this.#calls.shareIngress(this.#header, ask, options);
  }

  /** What the destination's journal says. */
  query(options: WaitOptions): Promise<PeerState> {
    return this.#calls.queryMigration(this.#header, this.#parts.own(), options);
  }

  /** Tells the destination to give up, and answers what its journal says then. */
  async abort(options: WaitOptions): Promise<PeerState> {
    using limit = withTimeout(options.signal, ABORT_LIMIT_MS, () => lost(this.host));
    const state = await this.#calls.abort(this.#header, { signal: limit.signal });
    this.failure = state.failure;
    this.heardAbort = true;
    return state;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new MigrationError('CANCELLED_BY', 'The migration has ended.'));
    if (this.#parts.giveUp.taken) return;
    try {
      await this.abort({ signal: new AbortController().signal });
    } catch (error) {
      this.#parts.log.warn({ err: error }, 'the destination did not hear of the rollback');
    }
  }

  // The guest runs and the mirrors go on by themselves: an agent that starts again is waited for.
  async #patiently<T>(options: WaitOptions, call: () => Promise<T>): Promise<T> {
    const untilMs = performance.now() + RESTART_LIMIT_MS;
    for (;;) {
      try {
        return await call();
      } catch (error) {
        const lost = asReasoned(error).reason === 'PEER_UNREACHABLE';
        if (!lost || options.signal.aborted || performance.now() > untilMs) throw error;
      }
      await delay(RESTART_PAUSE_MS, undefined, options);
    }
  }

  // One long call after the other. A peer that cannot be reached is asked again: for as long as its
  // agent may take to start again while the guest runs here, and for a moment while it does not.
  async #askForVote(header: PeerHeader): Promise<Vote> {
    const signal = this.#ended.signal;
    let lostMs: number | undefined;
    for (let losses = 0; ; ) {
      try {
        return await this.#calls.awaitLoaded(header, { signal });
      } catch (error) {
        const { reason, side } = asReasoned(error);
        if (reason !== 'PEER_UNREACHABLE' && reason !== 'STALLED') throw error;
        // What names its side is no silence: it is the destination's word that it has given up.
        if (reason === 'STALLED' && side !== undefined) throw error;
        if (reason === 'STALLED') lostMs = undefined;
        else {
          lostMs ??= performance.now();
          if (this.#urgent) losses++;
          if (losses > LOSSES || performance.now() - lostMs > RESTART_LIMIT_MS) throw error;
          await delay(RESTART_PAUSE_MS, undefined, { signal });
        }
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

function forgotten(host: string): MigrationError {
  const message = `${host} knows the migration by another journal than before.`;
  return new MigrationError('PEER_LOST', message, { side: 'destination' });
}

function lost(host: string): MigrationError {
  return new MigrationError('PEER_LOST', `The agent of ${host} did not answer in time.`);
}

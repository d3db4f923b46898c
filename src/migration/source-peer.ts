import type { WaitOptions } from '../domain/types.js';
import { uptimeMs } from '../util/clock.js';
import type { Log } from '../util/log.js';
import { asReasoned, MigrationError } from './errors.js';
import { isUndecided } from './handover-types.js';
import type { PeerCalls, PeerHeader, PeerState } from './peer.js';

const ASK_EVERY_MS = 5_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;
const ALARM_MS = 15_000;

/** Whoever wants to know what the source's journal says. */
export interface SourceListener {
  /** What the destination's own journal says. */
  own(): PeerState;
  /** Told of every answer; the next question waits for it. */
  heard(state: PeerState): Promise<void>;
  /** Told when a question went unanswered, with how long the source has been silent. */
  silent(forMs: number): void;
  /** True while much depends on the answer: then it is asked for soon, and again soon. */
  urgent(): boolean;
  /** Told once, when what is urgent has been so for 15 s. */
  alarm(): void;
}

/** The source as the destination sees it. It is only ever asked what its journal says. */
export class SourcePeer {
  readonly #header: PeerHeader;
  readonly #calls: PeerCalls;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;
  readonly #asking = new AbortController();

  constructor(header: PeerHeader, calls: PeerCalls, log: Log) {
    this.#header = header;
    this.#calls = calls;
    this.#log = log;
  }

  /** Proves that the source can be reached from here before anything is made. */
  async prove(own: PeerState, options: WaitOptions): Promise<void> {
    const { record } = await this.#calls.queryMigration(this.#header, own, options);
    if (record !== 'NONE' && isUndecided(record as 'STARTED')) return;
    throw new MigrationError(
      'PEER_LOST',
      `${this.#header.sourceHost} asked for a migration that it does not know of (${record}).`,
      { side: 'source' },
    );
  }

  /** What the source's journal says. `own` is what the destination's does. */
  query(own: PeerState, options: WaitOptions): Promise<PeerState> {
    return this.#calls.queryMigration(this.#header, own, options);
  }

  /** Asks the source from time to time, until `unfollow`. */
  follow(listener: SourceListener): void {
    let heardAtMs = uptimeMs();
    let pauseMs = FIRST_PAUSE_MS;
    let alarmed = false;
    const { signal } = this.#asking;
    const ask = async () => {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ASK_EVERY_MS)]);
      try {
        const state = await this.#calls.queryMigration(this.#header, listener.own(), {
          signal: limit,
        });
        heardAtMs = uptimeMs();
        pauseMs = FIRST_PAUSE_MS;
        if (!signal.aborted) await listener.heard(state);
      } catch (error) {
        this.#log.debug({ reason: asReasoned(error).reason }, 'the source did not answer');
        pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
        const silentMs = uptimeMs() - heardAtMs;
        if (!signal.aborted) listener.silent(silentMs);
        if (!alarmed && listener.urgent() && silentMs > ALARM_MS) {
          alarmed = true;
          listener.alarm();
        }
      }
      again();
    };
    const again = () => {
      if (signal.aborted) return;
      const waitMs = listener.urgent() ? pauseMs : ASK_EVERY_MS;
      this.#timer = setTimeout(ask, waitMs).unref();
    };
    again();
  }

  /** Stops asking. */
  unfollow(): void {
    this.#asking.abort(new Error('Nobody wants to know any more.'));
    clearTimeout(this.#timer);
  }
}

import type { WaitOptions } from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { MigrationError } from './errors.js';
import type { IngressAnswer, IngressAsk } from './ingress.js';

/** The destination of one migration, as far as its ingress goes. */
export interface IngressPeer {
  /** Whether it answers such questions at all; known once it has prepared. */
  readonly sharesIngress: boolean;
  shareIngress(ask: IngressAsk, options: WaitOptions): Promise<IngressAnswer>;
}

const ASK_EVERY_MS = 500;
/** Where the destination has no limit there is only the turn to be kept. */
const UNLIMITED_ASK_EVERY_MS = 1_000;
const WAITING_ASK_EVERY_MS = 100;
const ANSWER_LIMIT_MS = 2_000;
/** The first answer is waited for, so that the copy does not begin faster than it may go on. */
const FIRST_ANSWER_MS = 1_000;
/** A destination that is silent for so long is not waited for; it may be overrun. */
const SILENT_MS = 10_000;

/**
 * What the destination of one migration lets it send: asked for twice a second where it has a
 * limit. Where no answer comes the last one counts, its half after ten seconds, and nothing is ever
 * stopped for it.
 */
export class IngressShare {
  readonly #peer: IngressPeer;
  readonly #weight: number;
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #log: Log;
  readonly #changed: () => void;
  readonly #ended = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #asking = false;
  #askAgain = false;
  #share = Infinity;
  /** The destination has said that it has no limit. */
  #unlimited = false;
  /** Undefined until it has begun. */
  #heardMs: number | undefined;
  #wanting = false;
  #hasTurn = false;
  #granted: Deferred<void> = deferred();

  constructor(
    peer: IngressPeer,
    parts: {
      readonly weight: number;
      readonly clock: Pick<Clock, 'nowMs'>;
      readonly log: Log;
      /** Told when there may be more or less to send. */
      changed(): void;
    },
  ) {
    this.#peer = peer;
    this.#weight = parts.weight;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#changed = () => parts.changed();
  }

  /** The most to send, Infinity where the destination does not say. */
  get bytesPerS(): number {
    return this.#silent ? this.#share / 2 : this.#share;
  }

  /** Begins to ask, and waits for the first answer, but not for long. */
  async start({ signal }: WaitOptions): Promise<void> {
    if (!this.#peer.sharesIngress || this.#heardMs !== undefined) return;
    this.#heardMs = this.#clock.nowMs();
    using limit = withTimeout(signal, FIRST_ANSWER_MS, () => silent());
    await untilAborted(this.#ask(), limit.signal).catch(() => signal.throwIfAborted());
  }

  /** Resolves when the destination takes this RAM next. */
  async takeTurn({ signal }: WaitOptions): Promise<void> {
    if (this.#heardMs === undefined || this.#wanting) return;
    this.#wanting = true;
    void this.#ask();
    await untilAborted(this.#granted.promise, signal);
  }

  /** The turn is somebody else's from now on. One that still waits goes on waiting. */
  giveBack(): void {
    if (!this.#hasTurn) return;
    this.#wanting = false;
    this.#hasTurn = false;
    this.#granted = deferred();
    void this.#ask();
  }

  /** Asks nothing any more: the destination sees by itself that the guest has come, or will not. */
  stop(): void {
    this.#ended.abort(silent());
    clearTimeout(this.#timer);
  }

  get #silent(): boolean {
    return this.#clock.nowMs() - (this.#heardMs ?? Infinity) > SILENT_MS;
  }

  async #ask(): Promise<void> {
    if (this.#ended.signal.aborted) return;
    if (this.#asking) {
      this.#askAgain = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#asking = true;
    this.#askAgain = false;
    const ask = { weight: this.#weight, wantRamTurn: this.#wanting };
    try {
      using limit = withTimeout(this.#ended.signal, ANSWER_LIMIT_MS, () => silent());
      const answer = await this.#peer.shareIngress(ask, limit);
      this.#heardMs = this.#clock.nowMs();
      this.#unlimited = answer.bytesPerS === 0;
      this.#share = this.#unlimited ? Infinity : answer.bytesPerS;
      if (answer.ramTurn) this.#grant();
    } catch (error) {
      // It is asked for again soon: a turn is lost where nothing is heard for some seconds.
      this.#unlimited = false;
      this.#log.debug({ err: error }, 'the destination did not say what may be sent');
      if (this.#silent) this.#grant();
    }
    this.#asking = false;
    this.#next(ask);
  }

  #pauseMs(wantsTurn: boolean): number {
    if (wantsTurn && !this.#hasTurn) return WAITING_ASK_EVERY_MS;
    return this.#unlimited ? UNLIMITED_ASK_EVERY_MS : ASK_EVERY_MS;
  }

  #grant(): void {
    if (!this.#wanting) return;
    this.#hasTurn = true;
    this.#granted.resolve();
  }

  #next({ wantRamTurn }: IngressAsk): void {
    if (this.#ended.signal.aborted) return;
    this.#changed();
    if (this.#askAgain) return void this.#ask();
    this.#timer = setTimeout(() => void this.#ask(), this.#pauseMs(wantRamTurn)).unref();
  }
}

function silent(): MigrationError {
  return new MigrationError('PEER_UNREACHABLE', 'The destination did not answer in time.');
}

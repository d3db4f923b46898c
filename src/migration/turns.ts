import type { Clock } from '../util/clock.js';
import { nextOf, type Waiting } from './traffic-shares.js';

/** A turn that somebody has. Disposing gives it back; repeating that is harmless. */
export interface Turn extends Disposable {
  readonly sinceMs: number;
}

/** What waiting for a turn needs. */
export interface TurnOptions {
  /** More than 0; see `nextOf`. Default: 1. */
  readonly weight?: number;
  /** Ends the wait with its reason. */
  readonly signal: AbortSignal;
}

/** How often it is asked whether turns are given again, while they are not. */
const LOOK_AGAIN_MS = 50;

interface Waiter extends Waiting {
  admit(turn: Turn): void;
}

/** A few turns at once, for many who wait. */
export class Turns {
  readonly #slots: number;
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #taken = new Set<Turn>();
  readonly #waiting = new Set<Waiter>();
  readonly #closed: () => boolean;
  #timer: NodeJS.Timeout | undefined;

  /** `closed`: while it says true nobody is admitted. Default: never. */
  constructor(slots: number, clock: Pick<Clock, 'nowMs'>, closed: () => boolean = () => false) {
    this.#slots = slots;
    this.#clock = clock;
    this.#closed = closed;
  }

  get taken(): number {
    return this.#taken.size;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Resolves when it is one's turn. */
  take({ weight = 1, signal }: TurnOptions): Promise<Turn> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const onAbort = () => {
        this.#waiting.delete(waiter);
        reject(signal.reason);
      };
      const waiter: Waiter = {
        weight,
        sinceMs: this.#clock.nowMs(),
        admit: (turn) => {
          signal.removeEventListener('abort', onAbort);
          resolve(turn);
        },
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(waiter);
      this.#look();
    });
  }

  #look(): void {
    clearTimeout(this.#timer);
    while (this.#waiting.size > 0 && this.#taken.size < this.#slots) {
      if (this.#closed()) {
        this.#timer = setTimeout(() => this.#look(), LOOK_AGAIN_MS).unref();
        return;
      }
      const next = nextOf(this.#waiting, this.#clock.nowMs());
      if (!next) return;
      this.#waiting.delete(next);
      next.admit(this.#begin());
    }
  }

  #begin(): Turn {
    const turn: Turn = {
      sinceMs: this.#clock.nowMs(),
      [Symbol.dispose]: () => {
        if (this.#taken.delete(turn)) this.#look();
      },
    };
    this.#taken.add(turn);
    return turn;
  }
}

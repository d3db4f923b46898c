import type { Clock } from '../util/clock.js';
import { LEAST_FLOOR, nextOf, shareLink } from './traffic-shares.js';

/** What a source asks of its destination while it copies. */
export interface IngressAsk {
  /** Of the migration, 1 to 100. */
  readonly weight: number;
  /** It is about to send RAM, or does so. */
  readonly wantRamTurn: boolean;
}

/** What it may send. */
export interface IngressAnswer {
  /** Disks and RAM together; 0 is unlimited. */
  readonly bytesPerS: number;
  readonly ramTurn: boolean;
  /** How long this counts, in milliseconds. */
  readonly validMs: number;
}

/** A destination that answers such questions says so by this name. */
export const INGRESS_FEATURE = 'ingress';

/** Who has not asked for so long has no share any more. */
const SHARE_MS = 2_000;
/** The same of a turn: nothing is asked while the guest is paused. */
const TURN_MS = 5_000;
/** A turn ends after this where another source waits for one: no host can keep it for itself. */
const TURN_LIMIT_MS = 120_000;
const HEAVIEST = 100;
const FLOOR_PART = 1 / 20;

/** A migration on its way in. */
interface Asker {
  readonly migrationId: string;
  readonly coming: () => boolean;
  weight: number;
  askedMs: number;
  /** Since when it wants a turn, and since when it has one. */
  wantsSinceMs: number | undefined;
  turnSinceMs: number | undefined;
  /** It had one for too long, and gets no other before it has given up wanting it. */
  overdue: boolean;
  /** What it was told last. */
  given: number;
}

/**
 * Divides what may arrive at this host among the migrations on their way in, and says whose RAM is
 * next. What has been promised never adds up to more than the budget: whoever comes new gets what
 * is not promised, and the rest of its share when the others have heard of theirs.
 */
export class Ingress {
  readonly #budget: number;
  readonly #slots: number;
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #askers = new Map<string, Asker>();

  constructor(
    link: { readonly ingressBytesPerS: number; readonly ramPhases: number },
    clock: Pick<Clock, 'nowMs'>,
  ) {
    this.#budget = link.ingressBytesPerS || Infinity;
    this.#slots = link.ramPhases;
    this.#clock = clock;
  }

  /** Answers one migration; `coming` must say whether it is still on its way in. */
  ask(migrationId: string, ask: IngressAsk, coming: () => boolean): IngressAnswer {
    const nowMs = this.#clock.nowMs();
    this.#sweep(nowMs);
    if (!coming()) return { bytesPerS: 0, ramTurn: false, validMs: SHARE_MS };
    const asker = this.#asker(migrationId, coming);
    asker.askedMs = nowMs;
    asker.weight = Math.min(HEAVIEST, Math.max(1, ask.weight));
    if (ask.wantRamTurn) asker.wantsSinceMs ??= nowMs;
    else this.#giveBack(asker);
    this.#grant(asker, nowMs);
    const ramTurn = asker.turnSinceMs !== undefined;
    asker.given = this.#share(asker);
    return {
      bytesPerS: asker.given === Infinity ? 0 : Math.max(1, Math.floor(asker.given)),
      ramTurn,
      validMs: ramTurn ? TURN_MS : SHARE_MS,
    };
  }

  #asker(migrationId: string, coming: () => boolean): Asker {
    const asker = this.#askers.get(migrationId) ?? {
      migrationId,
      coming,
      weight: 1,
      askedMs: 0,
      wantsSinceMs: undefined,
      turnSinceMs: undefined,
      overdue: false,
      given: 0,
    };
    this.#askers.set(migrationId, asker);
    return asker;
  }

  #sweep(nowMs: number): void {
    for (const [id, { coming, askedMs, turnSinceMs }] of this.#askers) {
      const leaseMs = turnSinceMs === undefined ? SHARE_MS : TURN_MS;
      if (!coming() || nowMs - askedMs > leaseMs) this.#askers.delete(id);
    }
  }

  #giveBack(asker: Asker): void {
    asker.wantsSinceMs = undefined;
    asker.turnSinceMs = undefined;
    asker.overdue = false;
  }

  #grant(asker: Asker, nowMs: number): void {
    const all = [...this.#askers.values()];
    const wanting = all.flatMap((one) => {
      const { weight, wantsSinceMs: sinceMs } = one;
      if (sinceMs === undefined || one.turnSinceMs !== undefined || one.overdue) return [];
      return [{ one, weight, sinceMs }];
    });
    if (wanting.length > 0) {
      for (const one of all) {
        if (nowMs - (one.turnSinceMs ?? nowMs) <= TURN_LIMIT_MS) continue;
        one.turnSinceMs = undefined;
        one.overdue = true;
      }
    }
    const taken = all.filter(({ turnSinceMs }) => turnSinceMs !== undefined).length;
    // The others are told when they ask, and are next then.
    if (taken < this.#slots && nextOf(wanting, nowMs)?.one === asker) asker.turnSinceMs = nowMs;
  }

  #share(asker: Asker): number {
    if (this.#budget === Infinity) return Infinity;
    const all = [...this.#askers.values()];
    const floor = Math.max(LEAST_FLOOR, (this.#budget * FLOOR_PART) / all.length);
    const claims = all.map(({ weight, turnSinceMs }) => {
      return { weight, cap: Infinity, ram: turnSinceMs !== undefined, floor };
    });
    const share = shareLink(this.#budget, claims)[all.indexOf(asker)] ?? 0;
    const promised = all.reduce((sum, one) => sum + (one === asker ? 0 : one.given), 0);
    return Math.max(0, Math.min(share, this.#budget - promised));
  }
}

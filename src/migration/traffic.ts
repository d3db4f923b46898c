import type { Clock } from '../util/clock.js';
import type { Log } from '../util/log.js';
import { type MemberSeed, TrafficMember } from './traffic-member.js';
import { floorOf, shareLink } from './traffic-shares.js';
import { Turns } from './turns.js';

/** What is said of the link between this host and the others. */
export interface LinkSettings {
  /** What all that leaves may take together, bytes per second; 0 where nobody says. */
  readonly egressBytesPerS: number;
  /** The same of what arrives. */
  readonly ingressBytesPerS: number;
  /** Of how many domains the RAM travels at once, as well out as in: 1 to 8. */
  readonly ramPhases: number;
}

export const DEFAULT_LINK: LinkSettings = { egressBytesPerS: 0, ingressBytesPerS: 0, ramPhases: 1 };

const EVERY_MS = 500;
/** QEMUs that start take what the guests need that are just being switched over. */
export const PREPARES_AT_ONCE = 4;
/** Nobody waits longer than this for others to be switched over: one may be in doubt. */
export const SWITCHOVER_GATE_MS = 3_000;
/** By this part what the link has carried is forgotten again, each time it is looked at. */
const FORGET = 0.002;

/**
 * Knows everything that leaves this host and divides the link among it: twice a second, and
 * whenever something begins, ends or goes on to another phase. RAM goes first, and that of a few
 * domains at a time (`LinkSettings.ramPhases`); disks are copied side by side. Only one domain at a
 * time may be paused for its switchover.
 */
export class Traffic {
  readonly ramTurns: Turns;
  readonly pauseTurns: Turns;
  readonly prepares: Turns;
  readonly clock: Pick<Clock, 'nowMs'>;
  readonly log: Log;
  readonly #budget: number;
  readonly #members = new Set<TrafficMember>();
  #timer: NodeJS.Timeout | undefined;
  /** What the link has been seen to carry, bytes per second. */
  #seen = 0;

  constructor(link: LinkSettings, { clock, log }: { clock: Pick<Clock, 'nowMs'>; log: Log }) {
    this.clock = clock;
    this.log = log;
    this.#budget = link.egressBytesPerS || Infinity;
    this.ramTurns = new Turns(link.ramPhases, clock);
    this.pauseTurns = new Turns(1, clock);
    this.prepares = new Turns(PREPARES_AT_ONCE, clock, () => this.switching);
  }

  /** Speaks for one migration. Nothing is done before it is used. */
  member(seed: MemberSeed): TrafficMember {
    return new TrafficMember(seed, this);
  }

  /** True while a guest is paused for its switchover, or has only just been. */
  get switching(): boolean {
    const sinceMs = this.clock.nowMs() - SWITCHOVER_GATE_MS;
    return [...this.#members].some(({ quietSinceMs }) => (quietSinceMs ?? -Infinity) > sinceMs);
  }

  /** What the link is known, or has been seen, to carry; 0 where nothing is known yet. */
  get rate(): number {
    return this.#budget === Infinity ? this.#seen : this.#budget;
  }

  /** Something of a migration has changed: what there is is divided again. */
  changed(member: TrafficMember): void {
    if (member.gone) this.#members.delete(member);
    else this.#members.add(member);
    if (this.#members.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      return;
    }
    this.#timer ??= setInterval(() => this.#tick(), EVERY_MS).unref();
    this.#divide();
  }

  #tick(): void {
    const members = [...this.#members];
    for (const member of members) member.measure();
    const total = members.reduce((sum, { rates }) => sum + rates.mirrors + rates.ram, 0);
    this.#seen = Math.max(total, this.#seen * (1 - FORGET));
    for (const member of members) member.limitTurns();
    this.#divide();
  }

  #divide(): void {
    const members = [...this.#members];
    const following = members.filter(({ ready, ram }) => ready && !ram).length;
    const claims = members.map(({ weight, cap, ram, rates, ready }) => {
      const floor = floorOf(rates.free, ready, this.rate, Math.max(1, following));
      return { weight, cap, ram, floor };
    });
    const shares = shareLink(this.#budget, claims);
    const first = members.some(({ ram }) => ram);
    members.forEach((member, index) => {
      member.apply(shares[index] ?? Infinity, first && !member.ram);
    });
  }
}

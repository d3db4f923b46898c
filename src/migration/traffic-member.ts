import type { Mirrors, RamSend, WaitOptions } from '../domain/types.js';
import { type IngressPeer, IngressShare } from './ingress-share.js';
import { Knob } from './knob.js';
import type { Migration } from './migration.js';
import type { Phase } from './phase.js';
import type { Traffic } from './traffic.js';
import { splitShare, turnLimitMs } from './traffic-shares.js';
import type { Turn } from './turns.js';

/** What must be known of a migration that uses the link. */
export interface MemberSeed {
  readonly migrationId: string;
  /** 1 to 100: shares are in proportion to it. */
  readonly weight: number;
  /** The most for disks and RAM together, bytes per second; 0 is unlimited. */
  readonly maxBandwidth: number;
  /** The newest figures of it. */
  figures(): Pick<Migration, 'disks' | 'ram'>;
  readonly ingress: IngressPeer;
}

/** A destination that does not answer does not keep migrations to others from beginning. */
const PREPARE_TURN_MS = 10_000;
/** What mirrors still follow by is read from the last figure before they were held back. */
const FORGET = 0.8;

/** One migration's part in the traffic of its host. */
export class TrafficMember {
  readonly weight: number;
  /** Bytes per second; `free` is what its mirrors sent while nothing held them back. */
  readonly rates = { mirrors: 0, ram: 0, free: 0 };
  /** True once it takes no part any more. */
  gone = false;
  /** Since when its guest is paused for the switchover. Its QEMU is asked nothing then. */
  quietSinceMs: number | undefined;
  readonly #seed: MemberSeed;
  readonly #traffic: Traffic;
  readonly #ingress: IngressShare;
  #mirrors: Knob | undefined;
  #ram: Knob | undefined;
  #prepare: Turn | undefined;
  #ramTurn: Turn | undefined;
  /** What the link gave when the turn began: what flows since may be this RAM alone. */
  #linkBytesPerS = 0;
  #pauseTurn: Turn | undefined;
  #going = false;
  #floored = false;

  constructor(seed: MemberSeed, traffic: Traffic) {
    this.weight = seed.weight;
    this.#seed = seed;
    this.#traffic = traffic;
    const { clock, log } = traffic;
    const changed = () => this.#changed();
    this.#ingress = new IngressShare(seed.ingress, { weight: seed.weight, clock, log, changed });
  }

  /** The most that it may send, whatever the others do. */
  get cap(): number {
    return Math.min(this.#seed.maxBandwidth || Infinity, this.#ingress.bytesPerS);
  }

  /** True while it is the turn of its RAM, from the moment on that nothing is waited for. */
  get ram(): boolean {
    return this.#going && this.#ramTurn !== undefined;
  }

  /** True where its mirrors only follow what the guest writes. */
  get ready(): boolean {
    return this.#seed.figures().disks.every(({ ready }) => ready);
  }

  /**
   * Waits until the migration may enter a phase: for a turn to prepare, for the destination's first
   * word of what may be sent, for a turn to send RAM.
   */
  async before(phase: Phase, { signal }: WaitOptions): Promise<void> {
    if (phase === 'prepare') {
      const turn = await this.#traffic.prepares.take({ weight: this.weight, signal });
      this.#prepare = turn;
      setTimeout(() => turn[Symbol.dispose](), PREPARE_TURN_MS).unref();
    } else if (phase === 'mirror') {
      await this.#ingress.start({ signal });
      this.#prepare?.[Symbol.dispose]();
      this.#changed();
    } else if (phase === 'precopy') await this.#takeTurn({ signal });
    else if (phase === 'switchover') this.#beQuiet();
    else if (phase === 'cleanup') this.leave();
  }

  /** Its mirrors have begun. */
  follow(mirrors: Mirrors): void {
    this.#mirrors = new Knob((rate) => mirrors.setSpeed(rate), this.#traffic.log);
    this.#changed();
  }

  /** Its RAM has begun. */
  sends(ram: RamSend): void {
    this.#ram?.hold();
    this.#ram = new Knob((rate) => ram.setBandwidth(rate), this.#traffic.log);
    this.#changed();
  }

  /** Waits until its guest may be paused: one at a time. */
  async pauseTurn({ signal }: WaitOptions): Promise<void> {
    this.#pauseTurn ??= await this.#traffic.pauseTurns.take({ weight: this.weight, signal });
  }

  /** The migration has ended, or nobody knows when it will. Repeating it is harmless. */
  leave(): void {
    if (this.gone) return;
    this.gone = true;
    this.#mirrors?.hold();
    this.#ram?.hold();
    this.#ingress.stop();
    for (const turn of [this.#prepare, this.#pauseTurn, this.#ramTurn]) turn?.[Symbol.dispose]();
    this.#changed();
  }

  /** Reads its rates from its figures. */
  measure(): void {
    const { disks, ram } = this.#seed.figures();
    const { rates } = this;
    rates.mirrors = disks.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
    rates.ram = this.#ram ? (ram?.bytesPerSecond ?? 0) : 0;
    if (!this.#floored) rates.free = Math.max(rates.mirrors, rates.free * FORGET);
  }

  /** RAM that takes much longer than it should, or never ends, does not keep the others waiting. */
  limitTurns(): void {
    const { clock, log, ramTurns, pauseTurns } = this.#traffic;
    if (this.quietSinceMs !== undefined) return;
    const limitMs = turnLimitMs(this.#seed.figures().ram?.totalBytes ?? 0, this.#linkBytesPerS);
    const over = (turn: Turn | undefined) => turn && clock.nowMs() - turn.sinceMs > limitMs;
    if (over(this.#ramTurn) && ramTurns.waiting > 0) {
      log.info({ migration_id: this.#seed.migrationId }, 'the RAM takes long; the next one begins');
      this.#ramTurn?.[Symbol.dispose]();
      this.#ramTurn = undefined;
      this.#ingress.giveBack();
      // The next one must not wait with RAM that is ready: QEMU would send it again and again.
      this.#pauseTurn?.[Symbol.dispose]();
    }
    if (over(this.#pauseTurn) && pauseTurns.waiting > 0) this.#pauseTurn?.[Symbol.dispose]();
  }

  /** It may send so much; `floored` where that is because of the RAM of another one. */
  apply(share: number, floored: boolean): void {
    this.#floored = floored;
    if (this.quietSinceMs !== undefined) return;
    const both = this.#ram && this.#seed.figures().disks.length > 0;
    const { mirrors, ram } = both
      ? splitShare(share, this.rates.mirrors)
      : { mirrors: share, ram: share };
    this.#mirrors?.want(mirrors);
    this.#ram?.want(ram);
  }

  async #takeTurn({ signal }: WaitOptions): Promise<void> {
    const { ramTurns, log } = this.#traffic;
    if (this.#ramTurn) return;
    log.debug({ waiting: ramTurns.waiting, taken: ramTurns.taken }, 'wants a turn to send RAM');
    // The turn here comes before the one over there, on every host: whoever has a turn over there
    // waits for nobody, so that no two can wait for each other.
    this.#ramTurn = await ramTurns.take({ weight: this.weight, signal });
    await this.#ingress.takeTurn({ signal });
    // Before the first byte: the way of RAM is made in time only where the others make room for it.
    this.#going = true;
    this.#linkBytesPerS = this.#traffic.rate;
    this.#changed();
  }

  #beQuiet(): void {
    this.quietSinceMs = this.#traffic.clock.nowMs();
    this.#mirrors?.hold();
    this.#ram?.hold();
    this.#ingress.stop();
  }

  #changed(): void {
    this.#traffic.changed(this);
  }
}

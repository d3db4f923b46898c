import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Mirrors, RamSend } from '../../../src/domain/types.js';
import { Ingress } from '../../../src/migration/ingress.js';
import type { IngressPeer } from '../../../src/migration/ingress-share.js';
import type { Migration } from '../../../src/migration/migration.js';
import { DEFAULT_LINK, type LinkSettings, Traffic } from '../../../src/migration/traffic.js';
import type { TrafficMember } from '../../../src/migration/traffic-member.js';
import { systemClock } from '../../../src/util/clock.js';
import { silentLog } from '../../support/silent-log.js';

const MIB = 1024 ** 2;
const MUTE: IngressPeer = {
  sharesIngress: false,
  shareIngress: () => Promise.reject(new Error('It does not share.')),
};

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A migration that does as it is told and remembers it. */
class Mover {
  readonly name: string;
  readonly member: TrafficMember;
  readonly told: string[] = [];
  readonly controller = new AbortController();
  rate = 0;
  ready = false;
  mirrors: number | undefined;
  ram: number | undefined;
  ramBytes = 64 * MIB;

  constructor(
    traffic: Traffic,
    name: string,
    options: { weight?: number; maxBandwidth?: number; ingress?: IngressPeer } = {},
  ) {
    this.name = name;
    const figures = () =>
      ({
        disks: [{ bytesPerSecond: this.rate, ready: this.ready }],
        ram: { totalBytes: this.ramBytes, bytesPerSecond: 0 },
      }) as unknown as Pick<Migration, 'disks' | 'ram'>;
    const { weight = 10, maxBandwidth = 0, ingress = MUTE } = options;
    this.member = traffic.member({ migrationId: name, weight, maxBandwidth, figures, ingress });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  async mirror(): Promise<this> {
    const began = this.member.before('mirror', { signal: this.signal });
    await vi.advanceTimersByTimeAsync(0);
    await began;
    const setSpeed = async (rate: number) => {
      this.mirrors = rate;
      this.told.push(`mirrors ${rate}`);
    };
    this.member.follow({ setSpeed } as unknown as Mirrors);
    return this;
  }

  /** Resolves when it is its turn and its RAM flows. */
  async send(): Promise<void> {
    await this.member.before('precopy', { signal: this.signal });
    const setBandwidth = async (rate: number) => {
      this.ram = rate;
      this.told.push(`ram ${rate}`);
    };
    this.member.sends({ setBandwidth } as unknown as RamSend);
  }

  async pause(): Promise<void> {
    await this.member.pauseTurn({ signal: this.signal });
    await this.member.before('switchover', { signal: this.signal });
  }

  end(): Promise<void> {
    return this.member.before('cleanup', { signal: this.signal });
  }
}

function trafficOf(link: Partial<LinkSettings> = {}): Traffic {
  return new Traffic({ ...DEFAULT_LINK, ...link }, { clock: systemClock, log: silentLog });
}

const pass = (ms = 0) => vi.advanceTimersByTimeAsync(ms);
const done = async (promise: Promise<unknown>) => {
  let is = false;
  void promise.then(
    () => (is = true),
    () => (is = true),
  );
  await pass();
  return is;
};

describe('the traffic of a host', () => {
  it('without a budget holds nobody back, and says so once', async () => {
    const traffic = trafficOf();
    const movers = [await new Mover(traffic, 'a').mirror(), await new Mover(traffic, 'b').mirror()];
    await pass(5_000);
    for (const { told } of movers) expect(told).toEqual(['mirrors 0']);
  });

  it('divides a budget by weight, again at each beginning and end, and obeys every cap', async () => {
    const traffic = trafficOf({ egressBytesPerS: 100 * MIB });
    const one = await new Mover(traffic, 'one').mirror();
    await pass();
    expect(one.mirrors).toBe(100 * MIB);
    const heavy = await new Mover(traffic, 'heavy', { weight: 30 }).mirror();
    await pass();
    expect([one.mirrors, heavy.mirrors]).toEqual([25 * MIB, 75 * MIB]);
    const capped = await new Mover(traffic, 'capped', { maxBandwidth: 4 * MIB }).mirror();
    await pass();
    expect([one.mirrors, heavy.mirrors, capped.mirrors]).toEqual([24 * MIB, 72 * MIB, 4 * MIB]);
    await heavy.end();
    await pass();
    expect([one.mirrors, heavy.mirrors]).toEqual([96 * MIB, 72 * MIB]);
  });

  it('lets one RAM at a time go first, in the order of arrival, and gives mirrors back their rate', async () => {
    const traffic = trafficOf();
    const movers: Mover[] = [];
    for (const name of ['a', 'b', 'c']) movers.push(await new Mover(traffic, name).mirror());
    const [a, b, c] = movers as [Mover, Mover, Mover];
    for (const mover of movers) mover.rate = 60 * MIB;
    await pass(1_000);
    await a.send();
    const waiting = b.send();
    await pass();
    expect([a.mirrors, a.ram, b.mirrors, c.mirrors]).toEqual([0, 0, 3 * MIB, 3 * MIB]);
    expect(await done(waiting)).toBe(false);
    await a.pause();
    await pass(600);
    expect(await done(waiting), 'the turn lasts to the end of the handover').toBe(false);
    await a.end();
    expect(await done(waiting)).toBe(true);
    expect([b.mirrors, b.ram, c.mirrors]).toEqual([0, 0, 3 * MIB]);
    await b.end();
    await pass();
    expect(c.mirrors).toBe(0);
  });

  it('lets as many send RAM as there are slots, and still pauses one guest at a time', async () => {
    const traffic = trafficOf({ ramPhases: 2 });
    const [a, b, c] = ['a', 'b', 'c'].map((name) => new Mover(traffic, name)) as [
      Mover,
      Mover,
      Mover,
    ];
    await Promise.all([a.send(), b.send()]);
    expect(await done(c.send())).toBe(false);
    await a.pause();
    const second = b.pause();
    expect(await done(second)).toBe(false);
    await a.end();
    expect(await done(second)).toBe(true);
    await c.end();
  });

  it('asks a QEMU nothing while its guest is paused', async () => {
    const traffic = trafficOf({ egressBytesPerS: 100 * MIB });
    const paused = await new Mover(traffic, 'paused').mirror();
    await paused.send();
    await paused.pause();
    await pass();
    const before = paused.told.length;
    const others = await Promise.all(['b', 'c'].map((name) => new Mover(traffic, name).mirror()));
    await pass(5_000);
    expect(paused.told).toHaveLength(before);
    expect(others[0]?.mirrors, 'the others keep their floor').toBe(MIB);
  });

  it('tells a QEMU only of changes that are worth it, one at a time', async () => {
    const traffic = trafficOf({ egressBytesPerS: 100 * MIB });
    let answer = () => {};
    const told: number[] = [];
    const setSpeed = (rate: number) => {
      told.push(rate);
      return new Promise<void>((resolve) => (answer = resolve));
    };
    const slow = new Mover(traffic, 'slow');
    await slow.member.before('mirror', { signal: slow.signal });
    slow.member.follow({ setSpeed } as unknown as Mirrors);
    const others: Mover[] = [];
    for (let i = 0; i < 3; i++) others.push(await new Mover(traffic, `${i}`).mirror());
    expect(told, 'one command is under way').toHaveLength(1);
    answer();
    await pass();
    expect(told.at(-1)).toBe(25 * MIB);
    expect(told, 'only the newest').toHaveLength(2);
    answer();
    // A share that grows by a hundredth is not worth a command.
    await new Mover(traffic, 'light', { maxBandwidth: 1 }).mirror();
    await pass(5_000);
    expect(told).toHaveLength(3);
  });

  it('keeps mirrors and RAM of one migration together within its cap', async () => {
    const traffic = trafficOf();
    const capped = await new Mover(traffic, 'capped', { maxBandwidth: 16 * MIB }).mirror();
    await pass();
    expect(capped.mirrors).toBe(16 * MIB);
    await capped.send();
    await pass();
    expect([capped.mirrors, capped.ram]).toEqual([1 * MIB, 15 * MIB]);
    capped.rate = 3 * MIB;
    await pass(1_000);
    expect([capped.mirrors, capped.ram]).toEqual([8 * MIB, 8 * MIB]);
  });

  it('passes a turn on when whoever has it goes, or has it for much too long', async () => {
    const traffic = trafficOf();
    const [gone, endless, last] = ['gone', 'endless', 'last'].map(
      (name) => new Mover(traffic, name),
    ) as [Mover, Mover, Mover];
    await Promise.all([gone, endless, last].map((mover) => mover.mirror()));
    await gone.send();
    const second = endless.send();
    const third = last.send();
    gone.member.leave();
    expect(await done(second)).toBe(true);
    await pass(29_000);
    expect(await done(third)).toBe(false);
    await pass(2_000);
    expect(await done(third)).toBe(true);
    await pass();
    expect(endless.ram, 'what never ends is one among others now').toBeLessThan(MIB);
    last.member.leave();
    await pass();
    expect([endless.mirrors, endless.ram]).toEqual([0, 0]);
  });

  it('lets a wait for a turn be cancelled, and the next one comes to whoever is next', async () => {
    const traffic = trafficOf();
    const [first, cancelled, last] = ['a', 'b', 'c'].map((name) => new Mover(traffic, name)) as [
      Mover,
      Mover,
      Mover,
    ];
    await first.send();
    const waiting = cancelled.send();
    const next = last.send();
    cancelled.controller.abort(new Error('Cancelled.'));
    await expect(waiting).rejects.toThrow('Cancelled.');
    cancelled.member.leave();
    expect(await done(next)).toBe(false);
    await first.end();
    expect(await done(next)).toBe(true);
  });

  it('lets four prepare at once, and none while a guest is switched over', async () => {
    const traffic = trafficOf();
    const movers = Array.from({ length: 6 }, (_, i) => new Mover(traffic, `${i}`));
    const begun: string[] = [];
    for (const { member, signal, name } of movers) {
      void member.before('prepare', { signal }).then(() => begun.push(name));
    }
    await pass();
    expect(begun).toEqual(['0', '1', '2', '3']);
    const paused = await new Mover(traffic, 'paused').mirror();
    await paused.send();
    await paused.pause();
    await movers[0]?.mirror();
    await pass(1_000);
    expect(begun).toHaveLength(4);
    await paused.end();
    await pass(100);
    expect(begun).toEqual(['0', '1', '2', '3', '4']);
    // A destination that hangs keeps nobody for long.
    await pass(10_000);
    expect(begun).toHaveLength(6);
  });
});

describe('a destination that shares its ingress', () => {
  /** A destination, and sources that can lose its answers. */
  function destination(link: Partial<LinkSettings>) {
    const ingress = new Ingress({ ...DEFAULT_LINK, ...link }, systemClock);
    const lost = { answers: false };
    const peer = (id: string, coming = () => true): IngressPeer => ({
      sharesIngress: true,
      shareIngress: async (ask) => {
        if (lost.answers) throw new Error('The answer is lost.');
        return ingress.ask(id, ask, coming);
      },
    });
    return { peer, lost };
  }

  it('is never overrun by two sources together, and gives one alone everything', async () => {
    const { peer } = destination({ ingressBytesPerS: 100 * MIB });
    const one = await new Mover(trafficOf(), 'one', { ingress: peer('one') }).mirror();
    await pass();
    expect(one.mirrors).toBe(100 * MIB);
    const other = await new Mover(trafficOf(), 'other', { ingress: peer('other') }).mirror();
    for (let looks = 0; looks < 100; looks++) {
      expect((one.mirrors ?? 0) + (other.mirrors ?? 0)).toBeLessThanOrEqual(100 * MIB + 1);
      await pass(100);
    }
    expect([one.mirrors, other.mirrors]).toEqual([50 * MIB, 50 * MIB]);
    await one.end();
    await pass(3_500);
    expect(other.mirrors).toBe(100 * MIB);
  });

  it('that answers no more is sent as much as before, then half of it, and never nothing', async () => {
    const { peer, lost } = destination({ ingressBytesPerS: 100 * MIB });
    const mover = await new Mover(trafficOf(), 'one', { ingress: peer('one') }).mirror();
    lost.answers = true;
    await pass(9_000);
    expect(mover.mirrors).toBe(100 * MIB);
    await pass(2_000);
    expect(mover.mirrors).toBe(50 * MIB);
    await mover.send();
    await pass(60_000);
    expect((mover.mirrors ?? 0) + (mover.ram ?? 0)).toBe(50 * MIB);
    lost.answers = false;
    await pass(1_000);
    expect((mover.mirrors ?? 0) + (mover.ram ?? 0)).toBe(100 * MIB);
  });

  it('takes the RAM of one source at a time', async () => {
    const { peer } = destination({});
    let arrived = false;
    const first = new Mover(trafficOf(), 'first', { ingress: peer('first', () => !arrived) });
    const second = new Mover(trafficOf(), 'second', { ingress: peer('second') });
    for (const mover of [first, second]) await mover.mirror();
    await first.send();
    const waiting = second.send();
    await pass(20_000);
    expect(await done(waiting)).toBe(false);
    // It is here before its source has said anything.
    arrived = true;
    await pass(150);
    expect(await done(waiting)).toBe(true);
  });

  it('is asked nothing while the guest is paused, and keeps its turn meanwhile', async () => {
    let questions = 0;
    const { peer } = destination({});
    const inner = peer('one');
    const counted: IngressPeer = {
      sharesIngress: true,
      shareIngress: (...args) => {
        questions += 1;
        return inner.shareIngress(...args);
      },
    };
    const one = await new Mover(trafficOf(), 'one', { ingress: counted }).mirror();
    const other = await new Mover(trafficOf(), 'other', { ingress: peer('other') }).mirror();
    await one.send();
    await pass(2_000);
    expect(questions).toBeGreaterThan(3);
    await one.pause();
    const before = questions;
    const waiting = other.send();
    await pass(4_000);
    expect(questions).toBe(before);
    expect(await done(waiting)).toBe(false);
  });

  it('gives the turn of a source that has died to the next within seconds', async () => {
    const { peer } = destination({});
    const [dead, next] = ['dead', 'next'].map(
      (name) => new Mover(trafficOf(), name, { ingress: peer(name) }),
    ) as [Mover, Mover];
    for (const mover of [dead, next]) await mover.mirror();
    await dead.send();
    const waiting = next.send();
    dead.member.leave();
    await pass(4_000);
    expect(await done(waiting)).toBe(false);
    await pass(2_000);
    expect(await done(waiting)).toBe(true);
  });

  it('and its source, which both send to each other, never wait for one another', async () => {
    // Each host has one turn out and one in. Whoever has one in waits for nothing any more, so
    // every wait ends: here both first ones go at once, and the second ones after them.
    const alpha = destination({});
    const beta = destination({});
    const [fromAlpha, fromBeta] = [trafficOf(), trafficOf()];
    const movers = [
      new Mover(fromAlpha, 'a1', { ingress: beta.peer('a1') }),
      new Mover(fromBeta, 'b1', { ingress: alpha.peer('b1') }),
      new Mover(fromAlpha, 'a2', { ingress: beta.peer('a2') }),
      new Mover(fromBeta, 'b2', { ingress: alpha.peer('b2') }),
    ];
    const order: string[] = [];
    const moves = movers.map(async (mover) => {
      await mover.mirror();
      await mover.send();
      order.push(mover.name);
      await mover.pause();
      await mover.end();
    });
    await pass(20_000);
    await Promise.all(moves);
    expect(order.slice(0, 2).sort()).toEqual(['a1', 'b1']);
    expect(order.slice(2).sort()).toEqual(['a2', 'b2']);
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  divide,
  floorOf,
  isWorth,
  LEAST_FLOOR,
  type LinkClaim,
  nextOf,
  shareLink,
  splitShare,
  turnLimitMs,
} from '../../../src/migration/traffic-shares.js';

const MIB = 1024 ** 2;
const rate = fc.oneof(
  fc.integer({ min: 0, max: 10_000 * MIB }),
  fc.constant(Number.POSITIVE_INFINITY),
);
const budget = fc.integer({ min: 1, max: 10_000 * MIB });
const weight = fc.integer({ min: 1, max: 100 });
const claim = fc.record({ weight, cap: rate });
const linkClaim = fc.record({
  weight,
  cap: rate,
  ram: fc.boolean(),
  floor: fc.integer({ min: MIB, max: 100 * MIB }),
});
const sum = (numbers: readonly number[]) => numbers.reduce((total, one) => total + one, 0);
/** Sums of what was divided lose a few bits. */
const about = (value: number) => value * (1 + 1e-9) + 1e-3;

describe('a budget', () => {
  it('is never exceeded, and nobody gets more than its cap', () => {
    fc.assert(
      fc.property(budget, fc.array(claim, { maxLength: 30 }), (all, claims) => {
        const shares = divide(all, claims);
        expect(sum(shares)).toBeLessThanOrEqual(about(all));
        shares.forEach((share, i) => {
          expect(share).toBeGreaterThanOrEqual(0);
          expect(share).toBeLessThanOrEqual(claims[i]?.cap ?? 0);
        });
      }),
    );
  });

  it('leaves nothing over while somebody could use it', () => {
    fc.assert(
      fc.property(budget, fc.array(claim, { minLength: 1, maxLength: 30 }), (all, claims) => {
        const wanted = Math.min(all, sum(claims.map(({ cap }) => cap)));
        expect(about(sum(divide(all, claims)))).toBeGreaterThanOrEqual(wanted);
      }),
    );
  });

  it('gives two that are not full what their weights say', () => {
    fc.assert(
      fc.property(budget, fc.array(claim, { minLength: 2, maxLength: 30 }), (all, claims) => {
        const shares = divide(all, claims);
        const open = claims.flatMap(({ cap, weight }, i) => {
          const share = shares[i] ?? 0;
          return share < cap * 0.999_999 ? [share / weight] : [];
        });
        if (open.length === 0) return;
        expect(Math.max(...open)).toBeLessThanOrEqual(about(Math.min(...open)));
      }),
    );
  });

  it('is divided by weight, and what a capped one leaves goes to the others', () => {
    const open = { weight: 1, cap: Number.POSITIVE_INFINITY };
    expect(divide(90, [open, { ...open, weight: 2 }])).toEqual([30, 60]);
    expect(divide(90, [open, { weight: 1, cap: 10 }, open])).toEqual([40, 10, 40]);
    expect(divide(Number.POSITIVE_INFINITY, [open, { weight: 1, cap: 10 }])).toEqual([
      Number.POSITIVE_INFINITY,
      10,
    ]);
  });
});

describe('a link', () => {
  const claims = fc.array(linkClaim, { minLength: 1, maxLength: 30 });

  it('with a known budget is never exceeded, no cap is, and all of it is used', () => {
    fc.assert(
      fc.property(budget, claims, (all, wanted) => {
        const shares = shareLink(all, wanted);
        expect(sum(shares)).toBeLessThanOrEqual(about(all));
        shares.forEach((share, i) => {
          expect(share).toBeLessThanOrEqual(about(wanted[i]?.cap ?? 0));
        });
        const usable = Math.min(all, sum(wanted.map(({ cap }) => cap)));
        expect(about(sum(shares))).toBeGreaterThanOrEqual(usable);
      }),
    );
  });

  it('stops nobody who could send something', () => {
    fc.assert(
      fc.property(budget, claims, (all, wanted) => {
        shareLink(all, wanted).forEach((share, i) => {
          if ((wanted[i]?.cap ?? 0) > 0) expect(share).toBeGreaterThan(0);
        });
      }),
    );
  });

  it('without a budget leaves RAM its cap and the others their floors', () => {
    const copying: LinkClaim = { weight: 1, cap: Infinity, ram: false, floor: 5 };
    expect(shareLink(Infinity, [copying, { ...copying, ram: true }])).toEqual([5, Infinity]);
    expect(shareLink(Infinity, [copying, { ...copying, cap: 3 }])).toEqual([Infinity, 3]);
  });

  it('gives RAM all but the floors, and the others what RAM cannot use', () => {
    const copying: LinkClaim = { weight: 1, cap: Infinity, ram: false, floor: 10 };
    const sending: LinkClaim = { weight: 1, cap: Infinity, ram: true, floor: 10 };
    expect(shareLink(100, [copying, sending])).toEqual([10, 90]);
    expect(shareLink(100, [copying, copying, { ...sending, cap: 30 }])).toEqual([35, 35, 30]);
  });

  it('keeps three quarters of a small budget for RAM, however many floors there are', () => {
    const copying: LinkClaim = { weight: 1, cap: Infinity, ram: false, floor: MIB };
    const shares = shareLink(10 * MIB, [
      ...Array.from({ length: 30 }, () => copying),
      { ...copying, ram: true },
    ]);
    expect(shares.at(-1)).toBeCloseTo(7.5 * MIB);
  });
});

describe('a floor', () => {
  it('is a twentieth of what was sent, and at least a MiB a second', () => {
    expect(floorOf(100 * MIB, false, 0, 1)).toBe(5 * MIB);
    expect(floorOf(0, false, 0, 1)).toBe(LEAST_FLOOR);
  });

  it('lets mirrors that are ready follow their guests, within a tenth of the link for all', () => {
    expect(floorOf(4 * MIB, true, 1000 * MIB, 2)).toBe(6 * MIB);
    expect(floorOf(200 * MIB, true, 1000 * MIB, 10)).toBe(10 * MIB);
  });
});

describe('the share of one migration', () => {
  it('is never exceeded by its mirrors and its RAM together', () => {
    fc.assert(
      fc.property(budget, fc.integer({ min: 0, max: 10_000 * MIB }), (share, sent) => {
        const { mirrors, ram } = splitShare(share, sent);
        expect(mirrors + ram).toBeLessThanOrEqual(about(share));
        expect(ram).toBeGreaterThanOrEqual(share / 2);
        expect(mirrors).toBeGreaterThanOrEqual(share / 16);
      }),
    );
  });

  it('gives mirrors more as their guests write more', () => {
    expect(splitShare(160, 0)).toEqual({ mirrors: 10, ram: 150 });
    expect(splitShare(160, 10)).toEqual({ mirrors: 20, ram: 140 });
    expect(splitShare(160, 1000)).toEqual({ mirrors: 80, ram: 80 });
  });
});

describe('a new rate', () => {
  it('is worth telling where it is less, the first, or more by a few percent', () => {
    expect(isWorth(undefined, Infinity)).toBe(true);
    expect(isWorth(100, 99.9)).toBe(true);
    expect(isWorth(100, 102)).toBe(false);
    expect(isWorth(100, 104)).toBe(true);
    expect(isWorth(100, Infinity)).toBe(true);
    expect(isWorth(Infinity, Infinity)).toBe(false);
  });
});

describe('turns', () => {
  it('come in the order of arrival among equals', () => {
    const waiting = [5, 3, 3, 9].map((sinceMs, id) => ({ id, weight: 1, sinceMs }));
    expect(nextOf(waiting, 10)?.id).toBe(1);
  });

  it('go to the greater weight among those who came together', () => {
    const waiting = [1, 7, 3].map((weight, id) => ({ id, weight, sinceMs: 4 }));
    expect(nextOf(waiting, 4)?.id).toBe(1);
  });

  it('come to everybody, however many of greater weight arrive meanwhile', () => {
    fc.assert(
      fc.property(weight, fc.integer({ min: 1, max: 5_000 }), (heavy, serviceMs) => {
        const patient = { name: 'patient', weight: 1, sinceMs: 0 };
        // One of great weight comes whenever one is served, and the one before is served next.
        for (let nowMs = 0, served = 0; ; nowMs += serviceMs, served++) {
          const waiting = [patient, { name: 'heavy', weight: heavy, sinceMs: nowMs - serviceMs }];
          if (nextOf(waiting, nowMs)?.name === 'patient') return;
          expect(served).toBeLessThanOrEqual(2 * heavy + 2);
        }
      }),
    );
  });

  it('are held against what the RAM should take, four times', () => {
    expect(turnLimitMs(64 * MIB, 1000 * MIB)).toBe(30_000);
    expect(turnLimitMs(64 * 1024 * MIB, 1024 * MIB)).toBe(256_000);
    expect(turnLimitMs(10_000 * MIB, 0)).toBe(400_000);
  });
});

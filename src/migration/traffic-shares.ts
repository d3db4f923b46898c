/*
 * How a link is divided among the migrations that use it. Pure: figures in, figures out. Rates are
 * bytes per second, and Infinity is no limit.
 */

const MIB = 1024 ** 2;

/** The least that a migration keeps while the RAM of another one goes first. */
export const LEAST_FLOOR = MIB;
/** What is left to mirrors that copy, as a part of what they had. */
const FLOOR_PART = 1 / 20;
/** What all mirrors that follow their guests keep, as a part of the link. */
const FOLLOWING_PART = 1 / 10;
/** Of what a guest writes its mirror gets a little more, so that it catches up. */
const FOLLOWING_HEADROOM = 1.5;
/** The most of a known budget that all floors together may take from RAM. */
const FLOORS_PART = 1 / 4;
/** A share that grows by less than this part is not worth a command. */
const WORTH_PART = 0.03;
/** Of RAM and mirrors of one migration: what mirrors may have, from the most to the least. */
const MIRROR_PARTS = [1 / 2, 1 / 4, 1 / 8, 1 / 16] as const;
/** A phase of RAM keeps its turn at least so long, and this many times what its RAM should take. */
const LEAST_TURN_MS = 30_000;
const TURN_PASSES = 4;
/** Taken for the link's rate where nothing is known of it. */
const UNKNOWN_LINK = 100 * MIB;

/** One that wants a part of a link. */
export interface Claim {
  /** More than 0. */
  readonly weight: number;
  /** The most that it can use. */
  readonly cap: number;
}

/** The same, of a migration. */
export interface LinkClaim extends Claim {
  /** Its RAM flows: it goes first. */
  readonly ram: boolean;
  /** What it keeps while the RAM of another one flows. */
  readonly floor: number;
}

/** One that waits for a turn. */
export interface Waiting {
  readonly weight: number;
  readonly sinceMs: number;
}

/**
 * Divides a budget by weight. Nobody gets more than its cap, and what it leaves goes to the others,
 * so that nothing is left over while somebody could use it.
 */
export function divide(budget: number, claims: readonly Claim[]): number[] {
  const shares = claims.map(({ cap }) => cap);
  if (budget === Infinity) return shares;
  const level = (index: number) => {
    const { cap, weight } = claims[index] ?? NOTHING;
    return cap / weight;
  };
  // Whoever is full first, as the water rises, leaves the rest to those after it.
  const order = shares.map((_, index) => index).sort((a, b) => (level(a) < level(b) ? -1 : 1));
  let left = Math.max(0, budget);
  let weights = claims.reduce((sum, { weight }) => sum + weight, 0);
  order.forEach((index, place) => {
    const { cap, weight } = claims[index] ?? NOTHING;
    const last = place === order.length - 1;
    const share = Math.min(cap, last ? left : (left * weight) / weights);
    shares[index] = share;
    left = Math.max(0, left - share);
    weights -= weight;
  });
  return shares;
}

const NOTHING: Claim = { weight: 1, cap: 0 };

/**
 * Divides a link. RAM that flows fills it by itself, and the sooner it is over, the less of it is
 * sent twice. Meanwhile the others keep their floors, and what RAM leaves of a known budget.
 */
export function shareLink(budget: number, claims: readonly LinkClaim[]): number[] {
  if (!claims.some(({ ram }) => ram)) return divide(budget, claims);
  const floors = divide(
    budget * FLOORS_PART,
    claims.map(({ weight, cap, floor, ram }) => ({
      weight,
      cap: ram ? 0 : Math.min(cap, floor),
    })),
  );
  const first = divide(
    budget - sum(floors),
    claims.map(({ weight, cap, ram }) => ({ weight, cap: ram ? cap : 0 })),
  );
  // Without a known budget nobody can say what RAM leaves.
  const rest = budget === Infinity ? 0 : budget - sum(floors) - sum(first);
  const more = divide(
    rest,
    claims.map(({ weight, cap, ram }, i) => ({ weight, cap: ram ? 0 : cap - (floors[i] ?? 0) })),
  );
  return claims.map((_, i) => (first[i] ?? 0) + (floors[i] ?? 0) + (more[i] ?? 0));
}

/**
 * What mirrors keep while the RAM of another migration flows.
 *
 * @param rate what they sent while nothing held them back
 * @param ready whether they only follow what their guest writes
 * @param link what the whole link has been seen to carry
 * @param count how many such migrations there are
 */
export function floorOf(rate: number, ready: boolean, link: number, count: number): number {
  const following = Math.min(rate * FOLLOWING_HEADROOM, (link * FOLLOWING_PART) / count);
  return Math.max(LEAST_FLOOR, rate * FLOOR_PART, ready ? following : 0);
}

/**
 * Divides what a migration may send between its mirrors and its RAM.
 *
 * @param rate what the mirrors send now
 */
export function splitShare(share: number, rate: number): { mirrors: number; ram: number } {
  if (share === Infinity) return { mirrors: Infinity, ram: Infinity };
  const part = MIRROR_PARTS.findLast((one) => share * one >= rate * FOLLOWING_HEADROOM);
  const mirrors = share * (part ?? MIRROR_PARTS[0]);
  return { mirrors, ram: share - mirrors };
}

/** Whether a change is worth a command: all that take something away are. */
export function isWorth(now: number | undefined, wanted: number): boolean {
  if (now === undefined || wanted < now) return true;
  return wanted !== now && wanted - now > now * WORTH_PART;
}

/** How long RAM may take before others need not wait for it any longer, in milliseconds. */
export function turnLimitMs(ramBytes: number, link: number): number {
  return Math.max(LEAST_TURN_MS, (TURN_PASSES * ramBytes * 1000) / (link || UNKNOWN_LINK));
}

/**
 * Who of those that wait is next: who has waited longest for its weight. Among equals that is the
 * first who came, and a great weight is only ever ahead of those that have not waited that much
 * longer: everybody's turn comes.
 */
export function nextOf<W extends Waiting>(waiting: Iterable<W>, nowMs: number): W | undefined {
  let best: W | undefined;
  for (const one of waiting) {
    if (!best || urgency(one, nowMs) > urgency(best, nowMs)) best = one;
  }
  return best;
}

// The one millisecond lets weight decide among those who have only just come.
function urgency({ weight, sinceMs }: Waiting, nowMs: number): number {
  return weight * (nowMs - sinceMs + 1);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}

import type { Fault } from './faults.js';
import { FAULTS } from './faults.js';
import type { Point } from './points.js';
import { Random } from './random.js';
import type { Cell } from './run.js';

/** Which cells of points and faults a run takes. */
export interface Selection {
  /** `all`, `switchover`, or a regular expression for the points' ids. */
  readonly points: string;
  /** Names of faults, or parts of names; empty means all. */
  readonly faults: readonly string[];
  readonly seed: string;
  /** How many runs; 0 means every cell once. */
  readonly runs: number;
  /** The share of runs in which something stands still for 20 s. */
  readonly slowShare: number;
}

/** The name of a cell, the same in every run. */
export function cellId({ point, fault, seed, after }: Cell): string {
  const where = after ? `${after.bytes} bytes of ${after.traffic}` : 'whole migration';
  return `${fault.name} @ ${point?.id ?? where} (${seed})`;
}

/**
 * Chooses cells. Where fewer are wanted than there are, every kind of fault gets its share, and
 * within it points of the switchover and the handover come twice as often as others.
 */
export function plan(points: readonly Point[], selection: Selection): Cell[] {
  const { seed, runs } = selection;
  const random = new Random(seed, 'plan');
  const chosen = points.filter((point) => isChosen(point, selection.points));
  const faults = FAULTS.filter(({ name }) => isNamed(name, selection.faults));
  if (runs === 0) {
    return faults.flatMap((fault) => cellsOf(fault, chosen, selection).map((one) => one(seed)));
  }
  const decks = faults.map((fault) => new Deck(fault, chosen, selection, random));
  const slow = decks.filter(({ fault }) => fault.slow);
  const quick = decks.filter(({ fault }) => !fault.slow);
  const cells: Cell[] = [];
  const slowRuns = quick.length === 0 ? runs : Math.round(runs * selection.slowShare);
  take(slow, slow.length === 0 ? 0 : slowRuns, cells);
  take(quick, runs - cells.length, cells);
  return random.shuffle(cells);
}

function take(decks: readonly Deck[], count: number, cells: Cell[]): void {
  for (let taken = 0; taken < count; ) {
    const before = taken;
    for (const deck of decks) {
      if (taken === count) return;
      const cell = deck.draw();
      if (!cell) continue;
      cells.push(cell);
      taken++;
    }
    if (taken === before) return;
  }
}

/** The cells of one fault, shuffled; when all have been drawn they come again with another seed. */
class Deck {
  readonly fault: Fault;
  readonly #cells: readonly ((seed: string) => Cell)[];
  readonly #random: Random;
  readonly #seed: string;
  #left: ((seed: string) => Cell)[] = [];
  #round = 0;

  constructor(fault: Fault, points: readonly Point[], selection: Selection, random: Random) {
    this.fault = fault;
    this.#seed = selection.seed;
    this.#random = random;
    const once = cellsOf(fault, points, selection);
    const tight = cellsOf(fault, points.filter(isTight), selection);
    const again = tight.map((one) => (seed: string) => one(`${seed}+`));
    this.#cells = fault.at ? [...once, ...again] : once;
  }

  draw(): Cell | undefined {
    if (this.#cells.length === 0) return undefined;
    if (this.#left.length === 0) {
      this.#left = this.#random.shuffle(this.#cells);
      this.#round++;
    }
    return this.#left.pop()?.(this.#round === 1 ? this.#seed : `${this.#seed}.${this.#round}`);
  }
}

function cellsOf(
  fault: Fault,
  points: readonly Point[],
  selection: Selection,
): ((seed: string) => Cell)[] {
  const { at } = fault;
  if (!at) {
    const wholeRuns = ['all', 'switchover', 'whole'].includes(selection.points);
    return wholeRuns ? [(seed) => ({ point: undefined, fault, seed })] : [];
  }
  return points.filter(at).map((point) => (seed) => ({ point, fault, seed }));
}

function isTight({ phase }: Point): boolean {
  return phase === 'switchover' || phase === 'handover';
}

function isChosen(point: Point, points: string): boolean {
  if (points === 'all') return true;
  if (points === 'switchover') return isTight(point);
  return new RegExp(points).test(point.id);
}

function isNamed(name: string, names: readonly string[]): boolean {
  return names.length === 0 || names.some((one) => name === one || name.startsWith(`${one}-`));
}

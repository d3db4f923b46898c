import { createHash } from 'node:crypto';

/** Numbers that are the same whenever the seed is. */
export class Random {
  readonly #seed: string;
  #count = 0;

  constructor(...seed: readonly (string | number)[]) {
    this.#seed = seed.join('/');
  }

  /** From 0 up to and not including 1. */
  next(): number {
    const digest = createHash('sha256')
      .update(`${this.#seed}:${this.#count++}`)
      .digest();
    return digest.readUInt32BE(0) / 2 ** 32;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.next() * items.length)];
    if (item === undefined) throw new Error('There is nothing to pick from.');
    return item;
  }

  /** The same items in another order. */
  shuffle<T>(items: readonly T[]): T[] {
    return items
      .map((item) => ({ item, at: this.next() }))
      .sort((a, b) => a.at - b.at)
      .map(({ item }) => item);
  }
}

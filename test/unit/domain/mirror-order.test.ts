import { describe, expect, it } from 'vitest';
import { CopyOrder, sharesOf } from '../../../src/domain/mirror-order.js';

const MIB = 1024 ** 2;

/** Looks once a second; `speed` is what all get together by how many are copied at once. */
function copying(
  writeRates: Record<string, number | undefined>,
  speed: (count: number) => number,
  limited = false,
) {
  const order = new CopyOrder();
  const waiting = new Map(Object.entries(writeRates));
  let atMs = 0;
  let copiedBytes = 0;
  let running: ReadonlySet<string> = new Set(waiting.keys());
  const limit = (isLimited: boolean) => {
    limited = isLimited;
  };
  const look = (seconds = 1) => {
    for (let second = 0; second < seconds; second++) {
      atMs += 1000;
      copiedBytes += speed(running.size);
      const disks = [...waiting].map(([diskId, writeRate]) => ({ diskId, writeRate }));
      running = order.next({ atMs, copiedBytes, disks, limited });
    }
    return [...running].sort();
  };
  order.next({ atMs, copiedBytes, disks: [], limited });
  return { look, limit, ready: (diskId: string) => waiting.delete(diskId) };
}

const linkOf = (bytes: number) => () => bytes;

describe('the order in which disks are copied', () => {
  it('begins with all of them, and goes on so where none is written to', () => {
    const { look } = copying({ a: 0, b: 0, c: 0 }, linkOf(100 * MIB));
    expect(look()).toEqual(['a', 'b', 'c']);
    expect(look(10)).toEqual(['a', 'b', 'c']);
  });

  it('goes on with all of them as long as nobody knows what is written', () => {
    const { look } = copying({ a: undefined, b: 5 * MIB }, linkOf(100 * MIB));
    expect(look(10)).toEqual(['a', 'b']);
  });

  it('leaves the disks that are written to most for the end, hottest last', () => {
    const { look, ready } = copying({ hot: 9 * MIB, cold: 0, warm: 3 * MIB }, linkOf(100 * MIB));
    look(2);
    expect(look(10)).toEqual(['cold']);
    ready('cold');
    expect(look(10)).toEqual(['warm']);
    ready('warm');
    expect(look(10)).toEqual(['hot']);
  });

  it('takes a hot one in where the link has room for it', () => {
    const { look } = copying({ hot: 9 * MIB, cold: 0 }, (count) => count * 50 * MIB);
    look(3);
    expect(look(10)).toEqual(['cold', 'hot']);
  });

  it('takes none in where all together may not copy faster', () => {
    const { look } = copying({ hot: 9 * MIB, cold: 0 }, (count) => count * 50 * MIB, true);
    look(3);
    expect(look(10)).toEqual(['cold']);
  });

  it('never ends with none, whatever the others on the link do meanwhile', () => {
    let speed = 100 * MIB;
    const { look, limit } = copying({ hot: 9 * MIB, cold: 0 }, (count) => (count * speed) / 2);
    // Until a hot one has been taken in to see whether it helps.
    look(2);
    limit(true);
    speed /= 100;
    look(2);
    limit(false);
    for (let second = 0; second < 10; second++) expect(look()).not.toEqual([]);
    speed *= 100;
    expect(look(20)).toContain('cold');
  });

  it('takes no more than are of use', () => {
    const { look } = copying(
      { cold: 0, warm: 5 * MIB, hot: 9 * MIB },
      // Two fill the link; that all three were faster once was chance.
      (count) => (count === 1 ? 50 : 60) * MIB,
    );
    look(6);
    expect(look(3)).toEqual(['cold', 'warm']);
  });
});

describe('the shares of the speed', () => {
  it('are equal for those that are copied, and next to nothing for the others', () => {
    expect(sharesOf(90, ['a', 'b', 'c'], new Set(['a', 'c']))).toEqual(
      new Map([
        ['a', 45],
        ['b', 1],
        ['c', 45],
      ]),
    );
  });

  it('are without limit where the speed is, and never zero where it is not', () => {
    expect(sharesOf(0, ['a', 'b'], new Set(['a']))).toEqual(
      new Map([
        ['a', 0],
        ['b', 1],
      ]),
    );
    expect(sharesOf(1, ['a', 'b'], new Set(['a', 'b'])).get('b')).toBe(1);
  });
});

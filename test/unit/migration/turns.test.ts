import { describe, expect, it } from 'vitest';
import { type Turn, Turns } from '../../../src/migration/turns.js';

/** A queue whose clock stands still unless it is set. */
function stage(slots: number, closed?: () => boolean) {
  const clock = { now: 0, nowMs: () => clock.now };
  const turns = new Turns(slots, clock, closed);
  const order: string[] = [];
  const held = new Map<string, Turn>();
  const take = (name: string, weight = 1, signal = new AbortController().signal) =>
    turns.take({ weight, signal }).then((turn) => {
      order.push(name);
      held.set(name, turn);
    });
  return { clock, turns, order, take, give: (name: string) => held.get(name)?.[Symbol.dispose]() };
}

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('turns', () => {
  it('are as many at once as there are slots, in the order of arrival', async () => {
    const { turns, order, take, give } = stage(2);
    for (const name of ['a', 'b', 'c', 'd']) void take(name);
    await settled();
    expect(order).toEqual(['a', 'b']);
    expect([turns.taken, turns.waiting]).toEqual([2, 2]);
    give('b');
    give('b');
    await settled();
    expect(order).toEqual(['a', 'b', 'c']);
    give('a');
    await settled();
    expect(order).toEqual(['a', 'b', 'c', 'd']);
  });

  it('come first to who weighs more, unless another one has waited longer for its weight', async () => {
    const { clock, order, take, give } = stage(1);
    void take('first');
    void take('light');
    clock.now = 1_000;
    void take('heavy', 10);
    await settled();
    give('first');
    await settled();
    expect(order).toEqual(['first', 'light']);
    void take('late');
    give('light');
    await settled();
    expect(order.at(-1)).toBe('heavy');
  });

  it('are no longer waited for when the signal fires, and go to the next', async () => {
    const { turns, order, take, give } = stage(1);
    const controller = new AbortController();
    void take('first');
    const leaving = take('leaving', 1, controller.signal);
    void take('last');
    controller.abort(new Error('It is enough.'));
    await expect(leaving).rejects.toThrow('It is enough.');
    expect(turns.waiting).toBe(1);
    give('first');
    await settled();
    expect(order).toEqual(['first', 'last']);
    await expect(take('never', 1, controller.signal)).rejects.toThrow('It is enough.');
  });

  it('are given to nobody while they are closed, and again soon after', async () => {
    let closed = true;
    const { order, take } = stage(1, () => closed);
    const taken = take('a');
    await settled();
    expect(order).toEqual([]);
    closed = false;
    await taken;
    expect(order).toEqual(['a']);
  });
});

import { describe, expect, test } from 'vitest';
import { BoundedQueue } from '../../../src/util/bounded-queue.js';

const settled = async (promise: Promise<unknown>) => {
  const still = Symbol('still waiting');
  await new Promise((resolve) => setImmediate(resolve));
  return (await Promise.race([promise, still])) !== still;
};

describe('a bounded queue', () => {
  test('makes the producer wait while it is full', async () => {
    const queue = new BoundedQueue<number>(2);
    expect([await queue.push(1), await queue.push(2)]).toEqual([true, true]);
    const third = queue.push(3);
    expect(await settled(third)).toBe(false);
    const items = queue[Symbol.asyncIterator]();
    expect((await items.next()).value).toBe(1);
    expect(await third).toBe(true);
  });

  test('gives everything in order, then the end', async () => {
    const queue = new BoundedQueue<number>(1);
    const taken: number[] = [];
    const consumer = (async () => {
      for await (const item of queue) taken.push(item);
    })();
    for (const item of [1, 2, 3]) await queue.push(item);
    queue.end();
    await consumer;
    expect(taken).toEqual([1, 2, 3]);
    expect(await queue.push(4)).toBe(false);
  });

  test('gives what is queued before it throws the error that it ended with', async () => {
    const queue = new BoundedQueue<number>(2);
    await queue.push(1);
    queue.end(new Error('broken'));
    const items = queue[Symbol.asyncIterator]();
    expect((await items.next()).value).toBe(1);
    await expect(items.next()).rejects.toThrow('broken');
  });

  test('releases a waiting producer when the consumer leaves or the signal says so', async () => {
    const queue = new BoundedQueue<number>(1);
    await queue.push(1);
    const controller = new AbortController();
    const aborted = queue.push(2, { signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(aborted).rejects.toThrow('enough');
    const waiting = [queue.push(3), queue.push(4)];
    for await (const _item of queue) break;
    expect(await Promise.all(waiting)).toContain(false);
  });
});

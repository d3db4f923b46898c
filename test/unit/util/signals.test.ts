import { describe, expect, test } from 'vitest';
import { deferred } from '../../../src/util/deferred.js';
import { linkSignals, untilAborted, withTimeout } from '../../../src/util/linked-signal.js';

/** Counts the listeners that a signal has. */
function counted(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  let count = 0;
  const { signal } = controller;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    count++;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    count--;
    remove(...args);
  };
  return { controller, listeners: () => count };
}

describe('linked signals', () => {
  test('abort with the reason of the first that does', () => {
    const a = new AbortController();
    const b = new AbortController();
    using linked = linkSignals(a.signal, undefined, b.signal);
    b.abort('b');
    a.abort('a');
    expect(linked.signal.reason).toBe('b');
  });

  test('are aborted from the start if one of them is', () => {
    using linked = linkSignals(new AbortController().signal, AbortSignal.abort('early'));
    expect(linked.signal.reason).toBe('early');
  });

  test('leave no listener behind on a signal that lives on', async () => {
    const { controller, listeners } = counted();
    for (let round = 0; round < 3; round++) {
      using linked = linkSignals(controller.signal);
      using limit = withTimeout(linked.signal, 1000, () => new Error('late'));
      expect(listeners()).toBe(1);
      await untilAborted(Promise.resolve(), limit.signal);
      await untilAborted(Promise.resolve(), controller.signal);
    }
    expect(listeners()).toBe(0);
  });
});

describe('a time limit', () => {
  test('aborts with an error that is made only then', async () => {
    let made = 0;
    const error = () => new Error(`late ${++made}`);
    using limit = withTimeout(undefined, 5, error);
    expect(made).toBe(0);
    await expect(untilAborted(deferred().promise, limit.signal)).rejects.toThrow('late 1');
  });

  test('does not pass once disposed of', async () => {
    const limit = withTimeout(undefined, 5, () => new Error('late'));
    limit[Symbol.dispose]();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(limit.signal.aborted).toBe(false);
  });

  test('of infinity never passes, and the outer signal still counts', async () => {
    const controller = new AbortController();
    using limit = withTimeout(controller.signal, Number.POSITIVE_INFINITY, () => new Error('late'));
    controller.abort(new Error('outer'));
    await expect(untilAborted(deferred().promise, limit.signal)).rejects.toThrow('outer');
  });
});

describe('waiting until aborted', () => {
  test('gives the result or the error of the promise', async () => {
    const { signal } = new AbortController();
    expect(await untilAborted(Promise.resolve(1), signal)).toBe(1);
    await expect(untilAborted(Promise.reject(new Error('own')), signal)).rejects.toThrow('own');
  });

  test('swallows the error of a promise that fails after the abort', async () => {
    const late = deferred();
    const waiting = untilAborted(late.promise, AbortSignal.abort(new Error('enough')));
    await expect(waiting).rejects.toThrow('enough');
    late.reject(new Error('nobody hears this'));
    await new Promise((resolve) => setImmediate(resolve));
  });
});

import { describe, expect, test } from 'vitest';
import { UndoStack } from '../../../src/util/undo-stack.js';

describe('an undo stack', () => {
  test('undoes in reverse order, one by one, and goes on after a failure', async () => {
    const done: string[] = [];
    const failures: unknown[] = [];
    const work = async () => {
      await using undo = new UndoStack((failure) => failures.push(failure));
      undo.defer('remove the first', () => done.push('first'));
      undo.defer('remove the second', () => Promise.reject(new Error('stuck')));
      undo.defer('remove the third', async () => {
        await new Promise((resolve) => setImmediate(resolve));
        done.push('third');
      });
      throw new Error('the cause');
    };
    await expect(work()).rejects.toThrow('the cause');
    expect(done).toEqual(['third', 'first']);
    expect(failures).toMatchObject([{ step: 'remove the second', error: { message: 'stuck' } }]);
  });

  test('undoes nothing that was released', async () => {
    const done: string[] = [];
    {
      await using undo = new UndoStack(() => undefined);
      undo.defer('remove it', () => done.push('removed'));
      undo.release();
    }
    expect(done).toEqual([]);
  });

  test('undoes once, however often it is disposed of', async () => {
    const done: string[] = [];
    const undo = new UndoStack(() => undefined);
    undo.defer('remove it', () => done.push('removed'));
    await undo[Symbol.asyncDispose]();
    await undo[Symbol.asyncDispose]();
    expect(done).toEqual(['removed']);
  });
});

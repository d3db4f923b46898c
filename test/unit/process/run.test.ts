import { describe, expect, test } from 'vitest';
import { run } from '../../../src/process/run.js';

const SHELL = '/bin/sh';

describe('running a program', () => {
  test('gives what it prints, and hands arguments over as they are', async () => {
    const text = await run('/bin/echo', ['a b', '$HOME', ';'], { limitMs: 5000 });
    expect(text).toBe('a b $HOME ;\n');
  });

  test('tells exit code and what was printed on stderr', async () => {
    await expect(
      run(SHELL, ['-c', 'echo why >&2; exit 4'], { limitMs: 5000 }),
    ).rejects.toMatchObject({
      name: 'ProcessError',
      exit: { code: 4, signal: undefined },
      output: 'why',
    });
  });

  test('ends it when its time is over', async () => {
    await expect(run('/bin/sleep', ['60'], { limitMs: 20 })).rejects.toThrow(
      '/bin/sleep 60 did not end within 20 ms.',
    );
  });

  test('ends it when the signal says so, with the reason of the signal', async () => {
    const signal = AbortSignal.timeout(20);
    await expect(run('/bin/sleep', ['60'], { limitMs: 5000, signal })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
  });

  test('says which program is missing', async () => {
    await expect(run('/absent/program', [], { limitMs: 5000 })).rejects.toMatchObject({
      name: 'ProcessError',
      program: '/absent/program',
    });
  });
});

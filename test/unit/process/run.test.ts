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

  test('gives it PATH, a language and what is said, and nothing of its own environment', async () => {
    process.env['DROVER_TEST_SECRET'] = 'do not tell';
    const text = await run('/usr/bin/env', [], { limitMs: 5000, env: { MORE: 'x' } });
    delete process.env['DROVER_TEST_SECRET'];
    const lines = text.trim().split('\n').sort();
    expect(lines).toEqual(['LANG=C', 'MORE=x', `PATH=${process.env['PATH']}`]);
  });

  test('starts it through another program, and names it in what goes wrong', async () => {
    const through = ['/usr/bin/env', 'ADDED=1'];
    const options = { limitMs: 5000, through };
    expect(await run(SHELL, ['-c', 'echo $ADDED'], options)).toBe('1\n');
    await expect(run(SHELL, ['-c', 'exit 3'], options)).rejects.toThrow('/bin/sh -c ended with');
  });

  test('says which program is missing', async () => {
    await expect(run('/absent/program', [], { limitMs: 5000 })).rejects.toMatchObject({
      name: 'ProcessError',
      program: '/absent/program',
    });
  });
});

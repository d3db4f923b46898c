import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DetachedLauncher } from '../../../src/process/detached-launcher.js';
import type { LaunchedProcess } from '../../../src/process/launcher.js';
import { isAlive, readStartTime, signalProcess } from '../../../src/process/proc.js';

let directory = '';
const started: LaunchedProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'drover-launch-'));
});

afterEach(async () => {
  for (const launched of started.splice(0)) {
    launched.kill('SIGKILL');
    await launched.exited;
  }
  rmSync(directory, { recursive: true, force: true });
});

async function launch(...command: [string, ...string[]]): Promise<LaunchedProcess> {
  const [program, ...argv] = command;
  const logPath = join(directory, 'log');
  const launched = await new DetachedLauncher().launch({
    name: 'test',
    command: program,
    argv,
    logPath,
  });
  started.push(launched);
  return launched;
}

describe('the detached launcher', () => {
  test('starts a process in a session of its own, with its output in the log', async () => {
    const launched = await launch('/bin/sh', '-c', 'echo out; echo err >&2; cat /proc/self/stat');
    expect(await launched.exited).toEqual({ code: 0, signal: undefined });
    const [out, err, stat] = readFileSync(join(directory, 'log'), 'latin1').split('\n');
    expect([out, err]).toEqual(['out', 'err']);
    const session = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[3];
    expect(Number(session)).toBe(launched.record.pid);
  });

  test('gives it a small environment', async () => {
    process.env['DROVER_TEST_SECRET'] = 'do not tell';
    const launched = await launch('/usr/bin/env');
    delete process.env['DROVER_TEST_SECRET'];
    await launched.exited;
    const lines = readFileSync(join(directory, 'log'), 'latin1').trim().split('\n').sort();
    expect(lines).toEqual(['LANG=C', `PATH=${process.env['PATH']}`]);
  });

  test.skipIf(process.getuid?.() !== 0)('runs it as its user, without other groups', async () => {
    const launched = await new DetachedLauncher().launch({
      name: 'test',
      command: '/bin/sh',
      argv: ['-c', 'id -u; id -g; id -G; pwd'],
      logPath: join(directory, 'log'),
      user: { uid: 400_001, gid: 400_002 },
    });
    started.push(launched);
    await launched.exited;
    const text = readFileSync(join(directory, 'log'), 'latin1');
    expect(text.trim().split('\n')).toEqual(['400001', '400002', '400002', '/']);
  });

  test('tells code and signal of the end', async () => {
    expect(await (await launch('/bin/sh', '-c', 'exit 3')).exited).toEqual({
      code: 3,
      signal: undefined,
    });
    const sleeper = await launch('/bin/sleep', '60');
    expect(sleeper.kill('SIGTERM')).toBe(true);
    expect(await sleeper.exited).toEqual({ code: undefined, signal: 'SIGTERM' });
    expect(sleeper.kill('SIGTERM')).toBe(false);
  });

  test('says which program cannot be started', async () => {
    await expect(launch('/absent/program')).rejects.toMatchObject({
      name: 'ProcessError',
      program: '/absent/program',
      cause: { code: 'ENOENT' },
    });
  });

  test('finds a process again and hears of its end', async () => {
    const { record } = await launch('/bin/sleep', '60');
    const adopted = await new DetachedLauncher().adopt(record);
    expect(adopted?.kill('SIGKILL')).toBe(true);
    adopted?.hurry();
    expect(await adopted?.exited).toEqual({ code: undefined, signal: undefined });
    expect(await new DetachedLauncher().adopt(record)).toBeUndefined();
  });

  test('keeps whoever ends an adopted process waiting for its end, with nothing else to do', async () => {
    const { record } = await launch('/bin/sleep', '60');
    const module = new URL('../../../src/process/detached-launcher.ts', import.meta.url).href;
    const script = `
      const { adoptByPid } = await import('${module}');
      const adopted = adoptByPid(${JSON.stringify(record)});
      adopted.kill('SIGCONT');
      process.send('waits');
      process.channel.unref();
      await adopted.exited;
      process.send('gone', () => process.exit(0));`;
    const argv = ['--import', 'tsx', '--input-type=module', '-e', script];
    const waiting = spawn(process.execPath, argv, {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const said: unknown[] = [];
    waiting.on('message', (word) => {
      said.push(word);
      // It ends while nothing but that is waited for.
      if (word === 'waits') setTimeout(() => process.kill(record.pid, 'SIGKILL'), 300);
    });
    const code = await new Promise((resolve) => waiting.on('exit', resolve));
    expect({ said, code }).toEqual({ said: ['waits', 'gone'], code: 0 });
  });

  test('takes another process with the same pid for what it is', async () => {
    const { record } = await launch('/bin/sleep', '60');
    const impostor = { ...record, startTime: record.startTime - 1 };
    expect(await new DetachedLauncher().adopt(impostor)).toBeUndefined();
    expect(signalProcess(impostor, 'SIGKILL')).toBe(false);
    expect(isAlive(record)).toBe(true);
  });
});

describe('/proc', () => {
  test('gives a start time for a living process only', () => {
    expect(readStartTime(process.pid)).toBeGreaterThan(0);
    expect(readStartTime(2 ** 22 + 1)).toBeUndefined();
  });
});

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LockWatch } from '../../../src/process/lock-watch.js';
import { isStopped, readStartTime } from '../../../src/process/proc.js';
import { StateLock } from '../../../src/process/state-lock.js';

const MODULE = fileURLToPath(new URL('../../../src/process/state-lock.ts', import.meta.url));

let state: string;
let holder: ChildProcess | undefined;

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'drover-watch-'));
  holder = undefined;
});

afterEach(async () => {
  if (holder) await end(holder);
  rmSync(state, { recursive: true, force: true });
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

/** Another process that holds the lock; it gives it back on SIGUSR2 and lives on. */
async function startHolder(): Promise<ChildProcess> {
  const program = `
    const { StateLock } = await import(${JSON.stringify(MODULE)});
    const lock = await StateLock.acquire(${JSON.stringify(state)});
    process.on('SIGUSR2', () => lock.release().then(() => console.log('released')));
    console.log('holds it');
    setInterval(() => lock, 1000);`;
  holder = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout as NodeJS.ReadableStream, 'data');
  return holder;
}

it('sees nobody where the lock was never taken, and where this process had it', async () => {
  const watch = new LockWatch(state);
  expect(await watch.look()).toMatchObject({ state: 'gone' });
  await using _lock = await StateLock.acquire(state);
  expect(await watch.look()).toMatchObject({ state: 'gone' });
});

it('sees the holder, that it is stopped, that it goes on, and that it is gone', async () => {
  const watch = new LockWatch(state);
  const child = await startHolder();
  const pid = child.pid ?? 0;
  const startTime = readStartTime(pid);
  expect(await watch.look()).toMatchObject({ state: 'here', holder: { pid, startTime } });
  expect(await watch.look()).toMatchObject({ state: 'here' });
  const process = { pid, startTime: startTime ?? 0 };
  child.kill('SIGSTOP');
  await expect.poll(() => isStopped(process)).toBe(true);
  expect(await watch.look()).toMatchObject({ state: 'stopped', holder: { pid } });
  child.kill('SIGCONT');
  await expect.poll(() => isStopped(process)).toBe(false);
  expect(await watch.look()).toMatchObject({ state: 'here' });
  await end(child);
  expect(await watch.look()).toMatchObject({ state: 'gone' });
});

it('sees nobody when the holder has given the lock back and lives on', async () => {
  const watch = new LockWatch(state);
  const child = await startHolder();
  expect(await watch.look()).toMatchObject({ state: 'here' });
  child.kill('SIGUSR2');
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  expect(await watch.look()).toMatchObject({ state: 'gone', holder: { pid: child.pid } });
});

it('sees the next holder, also of a lock that was not there at first', async () => {
  const watch = new LockWatch(join(state, 'later'));
  expect(watch.exists).toBe(false);
  expect(await watch.look()).toMatchObject({ state: 'gone' });
  writeFileSync(join(state, 'lock'), 'no holder');
  const other = new LockWatch(state);
  expect(await other.look()).toMatchObject({ state: 'gone' });
  const child = await startHolder();
  expect(await other.look()).toMatchObject({ state: 'here', holder: { pid: child.pid } });
});

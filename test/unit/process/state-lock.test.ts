import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readStartTime, signalProcess } from '../../../src/process/proc.js';
import { readHolder, StateLock } from '../../../src/process/state-lock.js';

const MODULE = fileURLToPath(new URL('../../../src/process/state-lock.ts', import.meta.url));

let state: string;
let children: ChildProcess[];

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'drover-lock-'));
  children = [];
});

afterEach(async () => {
  for (const child of children) await end(child);
  rmSync(state, { recursive: true, force: true });
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

/** Another real process that holds the lock, with a child of its own that outlives it. */
async function startHolder(): Promise<{ holder: ChildProcess; orphanPid: number }> {
  const program = `
    const { spawn } = await import('node:child_process');
    const { StateLock } = await import(${JSON.stringify(MODULE)});
    const lock = await StateLock.acquire(${JSON.stringify(state)});
    const child = spawn('sleep', ['60'], { stdio: 'ignore', detached: true });
    child.unref();
    console.log(child.pid);
    setInterval(() => lock, 1000);`;
  const holder = spawn(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', program],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  children.push(holder);
  const [line] = (await once(holder.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return { holder, orphanPid: Number(line.toString()) };
}

describe('the lock of a state directory', () => {
  it('makes the directory and writes down who holds it', async () => {
    const directory = join(state, 'new');
    await using lock = await StateLock.acquire(directory);
    expect(lock.stateDirectory).toBe(directory);
    expect(await readHolder(directory)).toMatchObject({
      pid: process.pid,
      startTime: readStartTime(process.pid),
      alive: true,
    });
  });

  it('is refused to a second agent of the same process, and given once the first has let go', async () => {
    const first = await StateLock.acquire(state);
    expect(await StateLock.tryAcquire(state)).toBeUndefined();
    await expect(StateLock.acquire(state)).rejects.toMatchObject({
      reason: 'STATE_LOCKED',
      message: `process ${process.pid} uses the state directory ${state}.`,
      facts: { pid: process.pid },
    });
    await first.release();
    await first.release();
    await using second = await StateLock.tryAcquire(state);
    expect(second).toBeDefined();
  });

  it('does not exclude an agent with another state directory', async () => {
    await using _one = await StateLock.acquire(join(state, 'a'));
    await using _other = await StateLock.acquire(join(state, 'b'));
  });

  it('is given to one of many that ask at once', async () => {
    const locks = await Promise.all(Array.from({ length: 8 }, () => StateLock.tryAcquire(state)));
    const held = locks.filter((lock) => lock !== undefined);
    expect(held).toHaveLength(1);
    await held[0]?.release();
  });

  it('is held by another process until that is killed, also while what it started lives on', async () => {
    const { holder, orphanPid } = await startHolder();
    const orphan = { pid: orphanPid, startTime: readStartTime(orphanPid) ?? 0 };
    try {
      await expect(StateLock.acquire(state)).rejects.toMatchObject({
        reason: 'STATE_LOCKED',
        facts: { pid: holder.pid },
      });
      // As a rescuer does with one that is stopped.
      const named = await readHolder(state);
      if (!named) throw new Error('The holder has not written who it is.');
      expect(named).toMatchObject({ pid: holder.pid, alive: true });
      const exit = once(holder, 'exit');
      process.kill(named.pid, 'SIGSTOP');
      expect(await StateLock.tryAcquire(state)).toBeUndefined();
      expect(signalProcess(named, 'SIGKILL')).toBe(true);
      await exit;
      expect(await readHolder(state)).toMatchObject({ pid: holder.pid, alive: false });
      await using lock = await StateLock.acquire(state);
      expect(lock).toBeDefined();
      expect(readStartTime(orphan.pid)).toBe(orphan.startTime);
    } finally {
      signalProcess(orphan, 'SIGKILL');
    }
  });

  it('is waited for as long as it is said', async () => {
    const first = await StateLock.acquire(state);
    const waiting = StateLock.acquire(state, { limitMs: 10_000 });
    await first.release();
    await using second = await waiting;
    expect(second).toBeDefined();
    await expect(StateLock.acquire(state, { limitMs: 60 })).rejects.toMatchObject({
      reason: 'STATE_LOCKED',
    });
  });

  it('does not name a holder that is not known', async () => {
    expect(await readHolder(state)).toBeUndefined();
    await using _lock = await StateLock.acquire(state);
    writeFileSync(join(state, 'lock'), 'nonsense');
    expect(await readHolder(state)).toBeUndefined();
    await expect(StateLock.acquire(state)).rejects.toMatchObject({
      message: `another process uses the state directory ${state}.`,
    });
  });

  it('does not take one that died in an earlier boot for alive', async () => {
    const startTime = readStartTime(process.pid);
    writeFileSync(
      join(state, 'lock'),
      JSON.stringify({ pid: process.pid, startTime, bootId: 'earlier' }),
    );
    expect(await readHolder(state)).toMatchObject({ alive: false });
  });

  it('is not taken on a file that is replaced while it is being locked', async () => {
    const taking = StateLock.tryAcquire(state);
    const path = join(state, 'lock');
    while (!existsSync(path)) await new Promise((resolve) => setImmediate(resolve));
    unlinkSync(path);
    writeFileSync(path, '');
    expect(await taking).toBeUndefined();
    await using lock = await StateLock.tryAcquire(state);
    expect(lock).toBeDefined();
  });

  it('can be taken anew after somebody has removed its file', async () => {
    await (await StateLock.acquire(state)).release();
    unlinkSync(join(state, 'lock'));
    await using lock = await StateLock.acquire(state);
    expect(await StateLock.tryAcquire(state)).toBeUndefined();
    expect(lock).toBeDefined();
  });
});

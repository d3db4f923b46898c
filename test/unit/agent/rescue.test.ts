import type { ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { rescueFolder, runRescue } from '../../../src/agent/rescue.js';
import { readHolder, StateLock } from '../../../src/process/state-lock.js';
import { memoryLog } from '../../support/fake-agent.js';
import { FakeLauncher } from '../../support/fake-qemu.js';
import { migrateUntil } from '../../support/qmp-pair.js';
import { end, RescueStage } from '../../support/rescue-stage.js';

let launcher: FakeLauncher;
let stage: RescueStage;
let log: ReturnType<typeof memoryLog>;
let stopping: AbortController;
let running: Promise<void> | undefined;

beforeEach(async () => {
  launcher = new FakeLauncher({ idle: true });
  stage = await RescueStage.open(launcher, '/fake/qemu-system-x86_64');
  log = memoryLog();
  stopping = new AbortController();
  running = undefined;
});

afterEach(async () => {
  stopping.abort();
  await running;
  await stage[Symbol.asyncDispose]();
});

/** Begins to watch; resolves when the rescue process has its own lock. */
async function watch(): Promise<void> {
  running = runRescue(stage.directories, log, stopping.signal);
  await expect.poll(() => log.lines.length).toBeGreaterThan(0);
}

/** An agent whose guest is stopped right before the switchover. */
async function startAgent(): Promise<{ agent: ChildProcess; journal: string }> {
  const journal = await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING']);
  await migrateUntil(stage.pair, 'pre-switchover');
  return { agent: await stage.startAgent(), journal };
}

/** Commands that the rescue monitor got: whoever only looks at /proc sends none. */
const questions = () =>
  (launcher.qemus[0]?.received ?? []).filter(({ command }) => command === 'query-uuid').length;

/** Resolves with the milliseconds until the guest runs. */
async function untilRuns(limitMs: number): Promise<number> {
  const startedMs = performance.now();
  using events = stage.pair.source.qmp.listen('RESUME');
  if ((await stage.guest()) === 'running') return 0;
  await events.next({ signal: AbortSignal.timeout(limitMs) });
  return performance.now() - startedMs;
}

describe('the rescue process of an agent', () => {
  it('asks no QEMU anything while the agent lives, and frees the guest when it is killed', async () => {
    const { agent, journal } = await startAgent();
    await watch();
    const before = questions();
    await delay(2_500);
    expect(questions()).toBe(before);
    expect(await stage.guest()).toBe('finish-migrate');
    agent.kill('SIGKILL');
    const tookMs = await untilRuns(10_000);
    expect(tookMs).toBeGreaterThan(1_500);
    expect(tookMs).toBeLessThan(5_000);
    expect((await stage.read(journal)).at(-1)).toMatchObject({ record: 'ABORTED', by: 'rescue' });
    // The next agent finds the state free, and the rescue process goes on watching it.
    const next = await stage.startAgent();
    expect(await readHolder(stage.directories.state)).toMatchObject({ pid: next.pid });
  });

  it('ends an agent that is stopped while its guest waits for it', async () => {
    const { agent } = await startAgent();
    await watch();
    agent.kill('SIGSTOP');
    expect(await untilRuns(10_000)).toBeLessThan(5_000);
    expect(agent.signalCode).toBe('SIGKILL');
  });

  it('leaves an agent alone that is stopped while its guest runs', async () => {
    await stage.write(['STARTED', 'DST_PREPARED', 'RAM']);
    const agent = await stage.startAgent();
    await watch();
    const before = questions();
    agent.kill('SIGSTOP');
    await expect.poll(questions, { timeout: 10_000 }).toBeGreaterThan(before + 1);
    expect(agent.signalCode).toBeNull();
    agent.kill('SIGCONT');
  });

  it('gets its turn when the agent crashes again and again', async () => {
    const { agent } = await startAgent();
    await watch();
    const freed = untilRuns(20_000);
    let lives = 0;
    let crashing: ChildProcess | undefined = agent;
    const loop = async () => {
      while (crashing) {
        await end(crashing);
        lives++;
        if ((await stage.guest()) === 'running') return;
        await delay(200);
        crashing = await stage.startAgent();
      }
    };
    await Promise.all([loop(), freed]);
    expect(lives).toBeGreaterThan(1);
  });

  it('does nothing after the guest has been given up', async () => {
    await stage.write(['STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED']);
    await migrateUntil(stage.pair, 'pre-switchover');
    const agent = await stage.startAgent();
    await watch();
    const before = questions();
    await end(agent);
    await delay(4_000);
    expect(questions()).toBe(before);
    expect(await stage.guest()).toBe('finish-migrate');
  });

  it('is the only one for its run directory, and says there who it is', async () => {
    await watch();
    const folder = rescueFolder(stage.directories.run);
    expect(await readHolder(folder)).toMatchObject({ pid: process.pid });
    await expect(
      runRescue(stage.directories, log, new AbortController().signal),
    ).rejects.toMatchObject({ reason: 'STATE_LOCKED' });
    stopping.abort();
    await running;
    await using _own = await StateLock.acquire(folder);
  });

  it('ends by itself when the directories are gone', async () => {
    await watch();
    rmSync(stage.directories.state, { recursive: true });
    await running;
    expect(log.lines.at(-1)?.message).toBe('watching no longer');
  });
});

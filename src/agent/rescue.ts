import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LockWatch } from '../process/lock-watch.js';
import { isAlive, isStopped, signalProcess } from '../process/proc.js';
import { type LockHolder, StateLock } from '../process/state-lock.js';
import type { Log } from '../util/log.js';
import { freeGuests, lookAtGuests, type Outcome, type RescueDirectories } from './rescue-guests.js';
import { AgentWatch } from './rescue-watch.js';

/** The rescue process of an agent that was there before may need a moment to end. */
const OWN_LOCK_LIMIT_MS = 5_000;
const KILL_LIMIT_MS = 2_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/** The folder of a rescue process: its lock, which names it, and its log. */
export function rescueFolder(runDirectory: string): string {
  return join(runDirectory, 'rescue');
}

/**
 * Watches the agent of a state directory from outside. An agent that dies, or is stopped, while its
 * guest is paused for the last of a migration would leave that guest paused for ever; this process
 * then takes the agent's place for as long as it takes to cancel the migration. It never acts once
 * the source has given the guest up, and never touches a QEMU while the agent is well.
 *
 * Resolves when the signal fires, or when the agent's directories are gone, which it never makes.
 *
 * @throws ReasonedError `STATE_LOCKED` where another rescue process watches already
 */
export async function runRescue(
  directories: RescueDirectories,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const folder = rescueFolder(directories.run);
  const lock = new LockWatch(directories.state);
  if (!lock.exists || !new LockWatch(directories.run).exists) return;
  await using own = await StateLock.acquire(folder, { limitMs: OWN_LOCK_LIMIT_MS });
  log.info({ pid: process.pid, state: directories.state }, 'watching the agent');
  await new Rescue(directories, log).watch(lock, new LockWatch(own.stateDirectory), signal);
  log.info({}, 'watching no longer');
}

class Rescue {
  readonly #directories: RescueDirectories;
  readonly #log: Log;
  readonly #agent = new AgentWatch();
  /** No guest is looked at before that. */
  #dueMs = 0;
  #pauseMs = FIRST_PAUSE_MS;

  constructor(directories: RescueDirectories, log: Log) {
    this.#directories = directories;
    this.#log = log;
  }

  async watch(lock: LockWatch, own: LockWatch, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && lock.exists && own.exists) {
      try {
        await this.#look(lock);
      } catch (error) {
        this.#log.error({ err: error }, 'the agent could not be looked after');
        this.#wait('failed');
      }
      await delay(this.#agent.pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #look(lock: LockWatch): Promise<void> {
    const { state, holder } = await lock.look();
    const verdict = this.#agent.see({ state, holder }, performance.now());
    if (state === 'here') {
      this.#dueMs = 0;
      this.#pauseMs = FIRST_PAUSE_MS;
    }
    if (performance.now() < this.#dueMs) return;
    if (verdict === 'stopped' && holder) await this.#endIfHarmful(holder);
    if (verdict === 'gone') await this.#free();
  }

  /** An agent that is stopped does no harm, and is left alone, unless its guest waits for it. */
  async #endIfHarmful(holder: LockHolder): Promise<void> {
    const found = await lookAtGuests(this.#directories, this.#log);
    if (found !== 'held') return this.#wait(found);
    if (!isStopped(holder) || !signalProcess(holder, 'SIGKILL')) return;
    this.#log.warn({ pid: holder.pid }, 'killed an agent that was stopped while its guest waited');
    const untilMs = performance.now() + KILL_LIMIT_MS;
    while (isAlive(holder) && performance.now() < untilMs) await delay(10);
    await this.#free();
  }

  async #free(): Promise<void> {
    const outcome = await freeGuests(this.#directories, this.#log);
    if (outcome === 'freed') this.#log.warn({}, 'freed the guests of an agent that is gone');
    this.#wait(outcome);
  }

  #wait(outcome: Outcome): void {
    // The lock of a crash-looping agent is free for moments only.
    if (outcome === 'locked') return;
    // What is undecided may come to hold its guest at any time; without it nothing new can happen.
    this.#pauseMs =
      outcome === 'fine' ? FIRST_PAUSE_MS : Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
    this.#dueMs = performance.now() + this.#pauseMs;
  }
}

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { LaunchedProcess, Launcher } from '../process/launcher.js';
import { isAlive, type ProcessRecord, signalProcess } from '../process/proc.js';
import { readHolder } from '../process/state-lock.js';
import { untilAborted } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { rescueFolder } from './rescue.js';
import type { RescueDirectories } from './rescue-guests.js';

/** What starts and keeps a rescue process. */
export interface RescueKeeperParts {
  readonly directories: RescueDirectories;
  readonly launcher: Launcher;
  readonly log: Log;
  /** The program to start, with its first arguments. Default: node with this program. */
  readonly command?: readonly [string, ...string[]];
}

/** The rescue process of this agent. */
export interface RescueKeeper {
  /** Ends the rescue process: its agent ends in order. Resolves when it is gone. Never rejects. */
  stop(): Promise<void>;
}

const END_LIMIT_MS = 2_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;

/** A process that only looks at /proc needs no heap to speak of. */
const NODE_OPTIONS = ['--max-old-space-size=64', '--max-semi-space-size=1'];

/**
 * Starts the rescue process of an agent that has its state, in place of the one of an earlier life,
 * and starts it again whenever it ends. An agent without one is as good as before it had one, so
 * that nothing here ever fails the agent: what goes wrong is logged and tried again.
 */
export function keepRescue(parts: RescueKeeperParts): RescueKeeper {
  const stopping = new AbortController();
  const kept = keep(parts, stopping.signal);
  return {
    async stop() {
      stopping.abort(new Error('The agent ends.'));
      await kept;
    },
  };
}

async function keep(parts: RescueKeeperParts, stopping: AbortSignal): Promise<void> {
  const { log, directories } = parts;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    const startedMs = performance.now();
    let rescue: LaunchedProcess | undefined;
    try {
      // One of an earlier life of the agent, and perhaps of an earlier version.
      const earlier = await readHolder(rescueFolder(directories.run));
      if (earlier?.alive && earlier.pid !== process.pid) await end(earlier, log);
      rescue = await launch(parts);
      log.info({ pid: rescue.record.pid }, 'started the rescue process');
      const exit = await untilAborted(rescue.exited, stopping);
      log.warn({ ...exit }, 'the rescue process has ended');
    } catch (error) {
      if (stopping.aborted) return await end(rescue?.record, log);
      log.error({ err: error }, 'the rescue process could not be started');
    }
    if (performance.now() - startedMs > LONGEST_PAUSE_MS) pauseMs = FIRST_PAUSE_MS;
    await delay(pauseMs, undefined, { signal: stopping, ref: false }).catch(() => undefined);
    if (stopping.aborted) return;
  }
}

async function end(rescue: ProcessRecord | undefined, log: Log): Promise<void> {
  if (!rescue) return;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!signalProcess(rescue, signal) || (await isGone(rescue))) return;
    log.warn({ pid: rescue.pid, signal }, 'the rescue process does not end');
  }
}

async function isGone(record: ProcessRecord): Promise<boolean> {
  const untilMs = performance.now() + END_LIMIT_MS;
  while (isAlive(record) && performance.now() < untilMs) await delay(10);
  return !isAlive(record);
}

async function launch({
  directories,
  launcher,
  command = thisProgram(),
}: RescueKeeperParts): Promise<LaunchedProcess> {
  const folder = rescueFolder(directories.run);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const [program, ...first] = command;
  return await launcher.launch({
    name: 'rescue',
    command: program,
    argv: [...first, 'rescue', '--state', directories.state, '--run', directories.run],
    logPath: join(folder, 'rescue.log'),
  });
}

function thisProgram(): readonly [string, ...string[]] {
  const main = fileURLToPath(new URL('../main', import.meta.url));
  if (!import.meta.url.endsWith('.ts')) return [process.execPath, ...NODE_OPTIONS, `${main}.js`];
  // Not compiled: node needs the loader that this process has, found from here and not from where
  // the process is started.
  const loader = import.meta.resolve('tsx');
  return [process.execPath, ...NODE_OPTIONS, '--import', loader, `${main}.ts`];
}

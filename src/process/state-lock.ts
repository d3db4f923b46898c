import { spawn } from 'node:child_process';
import { constants, readFileSync } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { syncDirectory } from '../util/durable-file.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { childEnvironment } from './environment.js';
import { describeExit, ProcessError } from './errors.js';
import { isAlive, type ProcessRecord, readStartTime } from './proc.js';

/** Who holds the lock of a state directory, as it has written itself. */
export interface LockHolder extends ProcessRecord {
  /** The boot in which it wrote that. */
  readonly bootId: string;
  /** Whether that very process lives. It may be stopped, and it may have given the lock back. */
  readonly alive: boolean;
}

/** How to wait for a lock. */
export interface LockOptions {
  /** How long to try, in milliseconds. Default: 0, which tries once. */
  readonly limitMs?: number;
}

const RETRY_MS = 50;

/**
 * The exclusive lock of a state directory: flock(2) on `<state>/lock`. It belongs to a descriptor
 * of this process, so that the kernel takes it back when the process ends, however it ends. The
 * processes that an agent starts do not inherit it. Two agents in one process exclude each other
 * as any two do.
 */
export class StateLock implements AsyncDisposable {
  readonly stateDirectory: string;
  readonly #file: FileHandle;
  #released = false;

  private constructor(stateDirectory: string, file: FileHandle) {
    this.stateDirectory = stateDirectory;
    this.#file = file;
  }

  /**
   * Takes the lock; makes the directory where there is none.
   *
   * @throws ReasonedError `STATE_LOCKED`, naming the holder's pid where it is known; ProcessError
   *   if flock(1) cannot be run
   */
  static async acquire(stateDirectory: string, options: LockOptions = {}): Promise<StateLock> {
    const deadline = performance.now() + (options.limitMs ?? 0);
    for (;;) {
      const lock = await StateLock.tryAcquire(stateDirectory);
      if (lock) return lock;
      if (performance.now() >= deadline) throw await lockedError(stateDirectory);
      await delay(RETRY_MS);
    }
  }

  /** The same, but answers undefined where somebody else holds the lock. */
  static async tryAcquire(stateDirectory: string): Promise<StateLock | undefined> {
    const made = await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
    if (made !== undefined) await syncDirectory(dirname(stateDirectory));
    const path = join(stateDirectory, 'lock');
    const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
    const file = await open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    try {
      // A lock file that was removed meanwhile would exclude nobody who opens the new one.
      if ((await lockDescriptor(file.fd)) && (await isSameFile(file, path))) {
        await writeHolder(file);
        return new StateLock(stateDirectory, file);
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
    return undefined;
  }

  /** Gives the lock back at once. Twice is harmless. */
  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    await this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

/** Who took the lock last, or undefined where nobody has, or has not written it down yet. */
export async function readHolder(stateDirectory: string): Promise<LockHolder | undefined> {
  const text = await readFile(join(stateDirectory, 'lock'), 'utf8').catch(() => '');
  try {
    const { pid, startTime, bootId } = JSON.parse(text) as Record<string, unknown>;
    if (typeof pid !== 'number' || typeof startTime !== 'number') return undefined;
    const record = { pid, startTime, bootId: String(bootId) };
    return { ...record, alive: record.bootId === readBootId() && isAlive(record) };
  } catch {
    return undefined;
  }
}

/** True where the descriptor has the lock now, false where another one has it. */
async function lockDescriptor(descriptor: number): Promise<boolean> {
  // The lock belongs to what was opened, not to the process that asked for it.
  const child = spawn('flock', ['-n', '-x', '3'], {
    env: childEnvironment(),
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
  });
  return await new Promise((resolve, reject) => {
    const fail = (what: string, cause?: Error) =>
      reject(new ProcessError(`flock ${what}.`, { program: 'flock', cause }));
    child.once('error', (cause) => fail('could not be started', cause));
    child.once('close', (code, signal) => {
      if (code === 0 || code === 1) resolve(code === 0);
      else fail(describeExit({ code: code ?? undefined, signal: signal ?? undefined }));
    });
  });
}

async function isSameFile(file: FileHandle, path: string): Promise<boolean> {
  const ours = await file.stat({ bigint: true });
  const named = await stat(path, { bigint: true }).catch(() => undefined);
  return named?.ino === ours.ino && named.dev === ours.dev;
}

async function writeHolder(file: FileHandle): Promise<void> {
  const startTime = readStartTime(process.pid);
  const text = `${JSON.stringify({ pid: process.pid, startTime, bootId: readBootId() })}\n`;
  await file.truncate(0);
  await file.write(text, 0);
}

async function lockedError(stateDirectory: string): Promise<ReasonedError> {
  const holder = await readHolder(stateDirectory);
  const who = holder?.alive ? `process ${holder.pid}` : 'another process';
  return new ReasonedError('STATE_LOCKED', `${who} uses the state directory ${stateDirectory}.`, {
    facts: { state: stateDirectory, ...(holder?.alive ? { pid: holder.pid } : {}) },
  });
}

function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

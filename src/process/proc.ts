import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { deferred } from '../util/deferred.js';

/**
 * What identifies a process across restarts of the agent. A pid alone does not: pids are used
 * again.
 */
export interface ProcessRecord {
  readonly pid: number;
  /** When the process started, in clock ticks since boot: field 22 of /proc/PID/stat. */
  readonly startTime: number;
  /** The systemd unit it runs in, where there is systemd. */
  readonly unit?: string;
}

/**
 * How a process ended. Both are undefined if it was not our child: then only its absence is known.
 */
export interface Exit {
  readonly code: number | undefined;
  readonly signal: string | undefined;
}

/** Returns the start time of a process, or undefined if it is gone or only waits to be reaped. */
export function readStartTime(pid: number): number | undefined {
  return readStatus(pid)?.startTime;
}

/**
 * Ticks of the kernel's clock, a hundredth of a second each, for which a process has worked;
 * undefined where it is gone.
 */
export function readCpuTicks(pid: number): number | undefined {
  return readStatus(pid)?.cpuTicks;
}

/** The user that a process runs as; undefined where it is gone. */
export function readOwner(pid: number): number | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    return Number(/^Uid:\t\d+\t(\d+)\t/m.exec(status)?.[1]);
  } catch {
    return undefined;
  }
}

/** True where the very process of the record lives and is stopped, by a signal or a debugger. */
export function isStopped(record: ProcessRecord): boolean {
  const status = readStatus(record.pid);
  return status?.startTime === record.startTime && /^[Tt]$/.test(status.letter);
}

function readStatus(
  pid: number,
): { readonly letter: string; readonly startTime: number; readonly cpuTicks: number } | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses and may itself hold spaces and
  // parentheses.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const letter = fields[0] ?? '';
  const startTime = Number(fields[19]);
  const gone = letter === 'Z' || letter === 'X' || !Number.isSafeInteger(startTime);
  const cpuTicks = Number(fields[11]) + Number(fields[12]);
  return gone ? undefined : { letter, startTime, cpuTicks };
}

/** True while the very process of the record lives. */
export function isAlive(record: ProcessRecord): boolean {
  return readStartTime(record.pid) === record.startTime;
}

/**
 * Sends a signal to the process of the record and to no other; false if it is gone. Between check
 * and signal the pid could in theory be given to another process; the kernel hands out all other
 * pids first, so it is not in practice.
 */
export function signalProcess(record: ProcessRecord, signal: NodeJS.Signals): boolean {
  if (!isAlive(record)) return false;
  try {
    return process.kill(record.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

const SLOW_MS = 1000;
const FAST_MS = 10;

/**
 * Watches a process that is not our child. Node has no pidfd, so /proc is read once a second;
 * whoever sees the process's monitor socket close calls `hurry`, and from then on it is read every
 * 10 ms until the process is gone.
 */
export class ProcessWatch {
  readonly exited: Promise<Exit>;
  #pauseMs = SLOW_MS;
  #held = false;
  #wake = new AbortController();

  constructor(record: ProcessRecord) {
    const gone = deferred<Exit>();
    this.exited = gone.promise;
    const watch = async () => {
      while (isAlive(record)) {
        // Not to keep the agent's process alive is the point of `ref`.
        const options = { signal: this.#wake.signal, ref: this.#held };
        await delay(this.#pauseMs, undefined, options).catch(() => undefined);
        if (this.#wake.signal.aborted) this.#wake = new AbortController();
      }
      gone.resolve({ code: undefined, signal: undefined });
    };
    void watch();
  }

  hurry(): void {
    this.#pauseMs = FAST_MS;
    this.#wake.abort();
  }

  /** Whoever ends it waits for its end: from now on that keeps this process running. */
  hold(): void {
    this.#held = true;
    this.#wake.abort();
  }
}

import { spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { deferred } from '../util/deferred.js';
import { childEnvironment } from './environment.js';
import { ProcessError } from './errors.js';
import type { LaunchedProcess, Launcher, LaunchRequest } from './launcher.js';
import {
  type Exit,
  isAlive,
  type ProcessRecord,
  ProcessWatch,
  readStartTime,
  signalProcess,
} from './proc.js';

/**
 * Starts processes in sessions of their own, so that neither the agent's end nor its terminal
 * reaches them. For hosts without systemd; an agent that runs as a service there must not kill its
 * whole control group when it stops. Nothing holds a process to its limits.
 */
export class DetachedLauncher implements Launcher {
  async launch(
    request: LaunchRequest,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<LaunchedProcess> {
    options.signal?.throwIfAborted();
    const { O_WRONLY, O_CREAT, O_APPEND, O_NOFOLLOW } = constants;
    const log = openSync(request.logPath, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o600);
    try {
      const child = spawn(request.command, request.argv, {
        detached: true,
        stdio: ['ignore', log, log],
        env: childEnvironment(),
        // Node drops the further groups with the user. The folder where the agent was started may
        // be one that this user could not enter by itself.
        ...(request.user ? { ...request.user, cwd: '/' } : {}),
      });
      const exited = deferred<Exit>();
      child.once('exit', (code, signal) =>
        exited.resolve({ code: code ?? undefined, signal: signal ?? undefined }),
      );
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve);
        child.once('error', (cause) =>
          reject(
            new ProcessError(`${request.command} could not be started.`, {
              program: request.command,
              cause,
            }),
          ),
        );
      });
      child.unref();
      const pid = child.pid as number;
      // A process that ended already has no start time any more; 0 matches no living process.
      const record = { pid, startTime: readStartTime(pid) ?? 0 };
      return {
        record,
        exited: exited.promise,
        kill: (signal) => {
          // Whoever ends it waits for its end, and the wait must keep this process running.
          child.ref();
          return signalProcess(record, signal);
        },
        hurry: () => undefined,
      };
    } finally {
      closeSync(log);
    }
  }

  async adopt(record: ProcessRecord): Promise<LaunchedProcess | undefined> {
    return adoptByPid(record);
  }
}

/** Finds a process by pid and start time. */
export function adoptByPid(record: ProcessRecord): LaunchedProcess | undefined {
  if (!isAlive(record)) return undefined;
  const watch = new ProcessWatch(record);
  return {
    record,
    exited: watch.exited,
    kill: (signal) => {
      watch.hold();
      return signalProcess(record, signal);
    },
    hurry: () => watch.hurry(),
  };
}

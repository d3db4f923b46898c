import { randomBytes } from 'node:crypto';
import { adoptByPid } from './detached-launcher.js';
import { childEnvironment } from './environment.js';
import { ProcessError } from './errors.js';
import type { LaunchedProcess, Launcher, LaunchRequest } from './launcher.js';
import { type ProcessRecord, readStartTime } from './proc.js';
import { run } from './run.js';

const LIMIT_MS = 15_000;

/**
 * Starts each process as a transient systemd service: it has a control group of its own, so that
 * stopping or upgrading the agent's service does not touch it.
 */
export class SystemdLauncher implements Launcher {
  async launch(
    request: LaunchRequest,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<LaunchedProcess> {
    // A domain that moves away and back may meet its own unit that is just ending, so names are
    // never used again.
    const unit = `drover-${request.name}-${randomBytes(4).toString('hex')}.service`;
    const limits = { limitMs: LIMIT_MS, ...options };
    await run('systemd-run', systemdRunArguments(unit, request), limits);
    const pid = Number(
      await run('systemctl', ['show', '--property=MainPID', '--value', unit], limits),
    );
    const startTime = pid > 0 ? readStartTime(pid) : undefined;
    if (startTime === undefined) {
      throw new ProcessError(
        `${request.command} ended at once; its output is in ${request.logPath}.`,
        {
          program: request.command,
        },
      );
    }
    const launched = adoptByPid({ pid, startTime, unit });
    if (launched) return launched;
    throw new ProcessError(
      `${request.command} ended at once; its output is in ${request.logPath}.`,
      {
        program: request.command,
      },
    );
  }

  async adopt(record: ProcessRecord): Promise<LaunchedProcess | undefined> {
    return adoptByPid(record);
  }
}

/**
 * Service type "exec" makes systemd-run wait until the program was executed, and fail if it cannot
 * be.
 */
function systemdRunArguments(unit: string, request: LaunchRequest): readonly string[] {
  return [
    `--unit=${unit}`,
    '--quiet',
    '--collect',
    '--service-type=exec',
    '--property=KillMode=mixed',
    `--property=StandardOutput=append:${request.logPath}`,
    `--property=StandardError=append:${request.logPath}`,
    ...hardening(request),
    '--',
    // systemd puts the values of variables into arguments where it finds "$".
    ...[request.command, ...request.argv].map((argument) => argument.replaceAll('$', () => '$$')),
  ];
}

/**
 * What holds for every program here, whatever it needs of the host: the file system is left to the
 * rights of its user, which QEMU's pools and sockets are made for.
 */
function hardening({ user, limits }: LaunchRequest): readonly string[] {
  const properties = [
    'NoNewPrivileges=yes',
    'LimitCORE=0',
    ...(limits ? [`MemoryMax=${limits.memoryBytes}`, `TasksMax=${limits.tasks}`] : []),
    // One that runs as the agent itself may need what the agent may do.
    ...(user ? ['CapabilityBoundingSet='] : []),
  ];
  return [
    ...properties.map((property) => `--property=${property}`),
    ...Object.entries(childEnvironment()).map(([name, value]) => `--setenv=${name}=${value}`),
    ...(user ? [`--uid=${user.uid}`, `--gid=${user.gid}`] : []),
  ];
}

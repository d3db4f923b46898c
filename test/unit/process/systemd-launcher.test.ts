import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { signalProcess } from '../../../src/process/proc.js';
import { SystemdLauncher } from '../../../src/process/systemd-launcher.js';

/**
 * Stands in for systemd: runs what comes after "--" in the background and remembers the pid. What
 * the real one makes of the options is not tested here.
 */
const systemdRun = (folder: string) => `#!/bin/sh
printf '%s\\n' "$@" > "${folder}/arguments"
while [ "$1" != "--" ]; do shift; done
shift
setsid "$@" > /dev/null 2>&1 &
echo $! > "${folder}/pid"
`;
const systemctl = (folder: string) => `#!/bin/sh
cat "${folder}/pid"
`;

let directory = '';
let path = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'drover-systemd-'));
  path = process.env['PATH'] ?? '';
  process.env['PATH'] = `${directory}:${path}`;
  program('systemd-run', systemdRun(directory));
  program('systemctl', systemctl(directory));
});

afterEach(() => {
  process.env['PATH'] = path;
  rmSync(directory, { recursive: true, force: true });
});

function program(name: string, text: string): void {
  writeFileSync(join(directory, name), text);
  chmodSync(join(directory, name), 0o755);
}

const REQUEST = {
  name: 'qemu-1234',
  command: '/bin/sleep',
  argv: ['60'],
  logPath: '/run/x/qemu.log',
} as const;

describe('the systemd launcher', () => {
  test('starts a transient service that appends to the log, under a name of its own', async () => {
    const launched = await new SystemdLauncher().launch(REQUEST);
    try {
      const options = readFileSync(join(directory, 'arguments'), 'utf8').trim().split('\n');
      expect(options).toEqual([
        `--unit=${launched.record.unit}`,
        '--quiet',
        '--collect',
        '--service-type=exec',
        '--property=KillMode=mixed',
        '--property=StandardOutput=append:/run/x/qemu.log',
        '--property=StandardError=append:/run/x/qemu.log',
        '--property=NoNewPrivileges=yes',
        '--property=LimitCORE=0',
        `--setenv=PATH=${process.env['PATH']}`,
        '--setenv=LANG=C',
        '--',
        '/bin/sleep',
        '60',
      ]);
      expect(launched.record.unit).toMatch(/^drover-qemu-1234-[0-9a-f]{8}\.service$/);
      const found = await new SystemdLauncher().adopt(launched.record);
      expect(found?.record).toEqual(launched.record);
    } finally {
      launched.kill('SIGKILL');
      launched.hurry();
      await launched.exited;
    }
  });

  test('holds it to its limits and runs it as its user, with nothing else allowed', async () => {
    const limits = { memoryBytes: 1024 ** 3, tasks: 300 };
    const user = { uid: 400_007, gid: 400_007 };
    const launched = await new SystemdLauncher().launch({ ...REQUEST, user, limits });
    try {
      const options = readFileSync(join(directory, 'arguments'), 'utf8').trim().split('\n');
      const wanted = [
        '--property=MemoryMax=1073741824',
        '--property=TasksMax=300',
        '--property=CapabilityBoundingSet=',
        '--uid=400007',
        '--gid=400007',
      ];
      expect(options).toEqual(expect.arrayContaining(wanted));
      expect(options.indexOf('--uid=400007')).toBeLessThan(options.indexOf('--'));
    } finally {
      launched.kill('SIGKILL');
      launched.hurry();
      await launched.exited;
    }
  });

  test('lets no argument be taken for a variable', async () => {
    const argv = ['-c', 'exec sleep 60 # $HOME $PATH'];
    const launched = await new SystemdLauncher().launch({ ...REQUEST, command: '/bin/sh', argv });
    try {
      const options = readFileSync(join(directory, 'arguments'), 'utf8').trim().split('\n');
      expect(options.at(-1)).toBe('exec sleep 60 # $$HOME $$PATH');
    } finally {
      launched.kill('SIGKILL');
      launched.hurry();
      await launched.exited;
    }
  });

  test('says so when the program ended at once', async () => {
    program('systemctl', '#!/bin/sh\necho 0\n');
    await expect(new SystemdLauncher().launch(REQUEST)).rejects.toMatchObject({
      name: 'ProcessError',
      program: '/bin/sleep',
    });
    const pid = Number(readFileSync(join(directory, 'pid'), 'utf8'));
    signalProcess({ pid, startTime: startTimeOf(pid) }, 'SIGKILL');
  });

  test('passes on what systemd-run complains of', async () => {
    program(
      'systemd-run',
      '#!/bin/sh\necho "Failed to start transient service unit" >&2\nexit 1\n',
    );
    await expect(new SystemdLauncher().launch(REQUEST)).rejects.toMatchObject({
      name: 'ProcessError',
      exit: { code: 1 },
      output: 'Failed to start transient service unit',
    });
  });
});

function startTimeOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
}

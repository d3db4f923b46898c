import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DetachedLauncher } from '../../../src/process/detached-launcher.js';
import { QemuProcess } from '../../../src/process/qemu-process.js';
import { die, FakeLauncher, hold } from '../../support/fake-qemu.js';

const UUID = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0001';

let base = '';

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'drover-process-'));
});

afterEach(() => {
  rmSync(base, { recursive: true, force: true });
});

function request(changes: object = {}) {
  const directory = join(base, 'd');
  return { binary: '/fake/qemu', uuid: UUID, name: 'a, b', directory, argv: ['-S'], ...changes };
}

function script(text: string): string {
  const path = join(base, 'qemu');
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

describe('starting QEMU', () => {
  test('makes a private folder, two monitors and a pid file', async () => {
    const launcher = new FakeLauncher();
    const qemu = await QemuProcess.start(launcher, request());
    expect(statSync(join(base, 'd')).mode & 0o777).toBe(0o700);
    expect(launcher.qemus[0]?.config).toMatchObject({
      uuid: UUID,
      name: 'a, b',
      stopped: true,
      pidFile: join(base, 'd', 'qemu.pid'),
      monitorPaths: [join(base, 'd', 'agent.sock'), qemu.rescueMonitorPath],
    });
    await qemu.kill();
  });

  test.skipIf(process.getuid?.() !== 0)('makes its folder its user’s', async () => {
    const user = { uid: 400_001, gid: 400_002 };
    const qemu = await QemuProcess.start(new FakeLauncher(), request({ user }));
    expect(statSync(join(base, 'd'))).toMatchObject(user);
    await qemu.kill();
    const others = request({ user: { uid: 400_003, gid: 400_003 } });
    await expect(QemuProcess.start(new FakeLauncher(), others)).rejects.toThrow("user 400003's");
  });

  test('shows nothing of a file that QEMU has put in the place of its log', async () => {
    const log = join(base, 'd', 'qemu.log');
    const binary = script(`rm ${log}; ln -s /etc/passwd ${log}; exit 1`);
    const failed = QemuProcess.start(new DetachedLauncher(), request({ binary }));
    await expect(failed).rejects.toMatchObject({ output: '' });
  });

  test('tells exit code and last words of a QEMU that ends at once', async () => {
    const binary = script('echo "first line"; echo "no such device" >&2; exit 1');
    await expect(
      QemuProcess.start(new DetachedLauncher(), request({ binary })),
    ).rejects.toMatchObject({
      name: 'QemuStartError',
      message: 'QEMU for a, b ended with exit code 1 before its monitor answered: no such device',
      exit: { code: 1 },
      output: 'first line\nno such device\n',
    });
  });

  test('keeps only the last 4 KiB of what it printed', async () => {
    const binary = script(
      `i=0; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done; exit 1`,
    );
    const failure = await QemuProcess.start(new DetachedLauncher(), request({ binary })).catch(
      (error: { output: string }) => error,
    );
    expect((failure as { output: string }).output).toHaveLength(4096);
    expect((failure as { output: string }).output).toMatch(/line 1999\n$/);
  });

  test('ends a QEMU whose monitor does not answer in time', async () => {
    const binary = script('exec sleep 60');
    await expect(
      QemuProcess.start(new DetachedLauncher(), request({ binary }), { limitMs: 100 }),
    ).rejects.toMatchObject({
      name: 'QemuStartError',
      message: 'QEMU for a, b did not answer within 100 ms: it printed nothing',
    });
  });

  test('ends a QEMU when the signal says so', async () => {
    const binary = script('exec sleep 60');
    const signal = AbortSignal.timeout(50);
    await expect(
      QemuProcess.start(new DetachedLauncher(), request({ binary }), { signal }),
    ).rejects.toMatchObject({ name: 'TimeoutError' });
  });

  test('refuses a folder whose sockets would have too long a path', async () => {
    const directory = join(base, 'x'.repeat(100));
    await expect(
      QemuProcess.start(new FakeLauncher(), request({ directory })),
    ).rejects.toMatchObject({
      name: 'SocketPathError',
    });
  });

  test('refuses a folder that others may enter', async () => {
    mkdirSync(join(base, 'd'), { mode: 0o755 });
    await expect(QemuProcess.start(new FakeLauncher(), request())).rejects.toThrow('mode 0700');
  });
});

describe('a running QEMU', () => {
  test('is found again after the agent let go of it', async () => {
    const launcher = new FakeLauncher();
    const qemu = await QemuProcess.start(launcher, request());
    await qemu.detach();
    const record = JSON.parse(JSON.stringify(qemu.record));
    const again = await QemuProcess.attach(launcher, record);
    expect(await again?.qmp.execute('query-uuid')).toEqual({ UUID });
    await again?.kill();
    expect(await QemuProcess.attach(launcher, record)).toBeUndefined();
  });

  test('of another domain is not taken for ours', async () => {
    const launcher = new FakeLauncher();
    const qemu = await QemuProcess.start(launcher, request());
    await qemu.detach();
    const record = { ...qemu.record, uuid: UUID.replace('5', '6') };
    await expect(QemuProcess.attach(launcher, record)).rejects.toMatchObject({
      name: 'QemuIdentityError',
    });
    launcher.killAll();
  });

  test('that does not quit is killed', async () => {
    const launcher = new FakeLauncher();
    const qemu = await QemuProcess.start(launcher, request());
    const held = hold();
    launcher.faults.add({ at: { command: 'quit' }, action: held.action });
    expect(await qemu.quit({ limitMs: 50 })).toEqual({ code: undefined, signal: 'SIGKILL' });
    held.release();
  });

  test('that dies closes its monitor and tells its end', async () => {
    const launcher = new FakeLauncher();
    const qemu = await QemuProcess.start(launcher, request());
    launcher.faults.add({ at: { command: 'query-jobs' }, action: die });
    await expect(qemu.qmp.execute('query-jobs')).rejects.toMatchObject({
      name: 'QmpClosedError',
      command: 'query-jobs',
    });
    expect(await qemu.exited).toEqual({ code: undefined, signal: 'SIGKILL' });
  });
});

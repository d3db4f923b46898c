import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { QemuProcess } from '../../src/process/qemu-process.js';
import type { QmpClosedError } from '../../src/qmp/errors.js';
import {
  die,
  dropMonitors,
  FakeLauncher,
  hold,
  judgeFakeGuest,
  refuse,
} from '../support/fake-qemu.js';
import {
  addTarget,
  exportDisk,
  migrateUntil,
  mirrorDisk,
  type Pair,
  startMirror,
  startPair,
} from '../support/qmp-pair.js';

const BINARY = '/fake/qemu-system-x86_64';

/** Waits until the guest has had so many writes acknowledged. */
async function written(launcher: FakeLauncher, index: number, count: number): Promise<void> {
  await expect
    .poll(() => launcher.qemus[index]?.acknowledged.length ?? 0, { interval: 5, timeout: 5000 })
    .toBeGreaterThan(count);
}

async function finish(pair: Pair): Promise<void> {
  using completed = pair.source.qmp.listen('MIGRATION');
  await pair.source.qmp.execute('migrate-continue', { state: 'pre-switchover' });
  await completed.next((event) => event.data.status === 'completed', { signal: pair.signal });
}

async function settle(pair: Pair): Promise<void> {
  using jobs = pair.source.qmp.listen('JOB_STATUS_CHANGE');
  await pair.source.qmp.execute('block-job-cancel', { device: 'mirror0' });
  await jobs.next((event) => event.data.status === 'concluded', { signal: pair.signal });
}

function judge(pair: Pair, launcher: FakeLauncher) {
  return judgeFakeGuest(launcher.qemus, [join(pair.directory, 'd.img')]);
}

describe('the guest of a fake QEMU', () => {
  test('keeps all its writes through a whole migration and never runs twice', async () => {
    const launcher = new FakeLauncher();
    await using pair = await startPair(launcher, BINARY);
    await written(launcher, 0, 20);
    await mirrorDisk(pair);
    await migrateUntil(pair, 'pre-switchover');
    await settle(pair);
    await finish(pair);
    await pair.destination.qmp.execute('cont');
    await written(launcher, 1, 20);
    await pair.destination.qemu.kill();
    expect(judge(pair, launcher)).toEqual({ doubled: [], skipped: [], lost: [] });
  });

  test('keeps all its writes when the mirror became write-blocking under load', async () => {
    const launcher = new FakeLauncher();
    await using pair = await startPair(launcher, BINARY);
    await mirrorDisk(pair);
    const { qmp } = pair.source;
    const change = { id: 'mirror0', type: 'mirror', 'copy-mode': 'write-blocking' } as const;
    await qmp.execute('block-job-change', change);
    await expect
      .poll(() => qmp.execute('query-block-jobs'))
      .toMatchObject([{ 'actively-synced': true }]);
    await written(launcher, 0, 30);
    await migrateUntil(pair, 'pre-switchover');
    // From here on nothing is left to copy: what is on the target now is all there is.
    await pair.destination.qmp.execute('nbd-server-stop');
    expect(judge(pair, launcher)).toEqual({ doubled: [], skipped: [], lost: [] });
  });

  test('loses writes, and that is seen, when the mirror is not settled', async () => {
    const launcher = new FakeLauncher();
    await using pair = await startPair(launcher, BINARY);
    await mirrorDisk(pair);
    launcher.faults.add({ at: { nbd: 'write' }, times: 1000, action: refuse('No space left') });
    await written(launcher, 0, 20);
    await migrateUntil(pair, 'pre-switchover');
    await finish(pair);
    expect(judge(pair, launcher).lost).not.toEqual([]);
  });

  test('runs twice, and that is seen, when both sides are told to go on', async () => {
    const launcher = new FakeLauncher();
    await using pair = await startPair(launcher, BINARY);
    await migrateUntil(pair, 'pre-switchover');
    await finish(pair);
    await pair.destination.qmp.execute('cont');
    await pair.source.qmp.execute('cont');
    await written(launcher, 1, 5);
    await expect
      .poll(() => judge(pair, launcher).doubled.length, { timeout: 5000 })
      .toBeGreaterThan(0);
  });
});

describe('the planned faults of a fake QEMU', () => {
  test('a command is refused with the class that was asked for, and only once', async () => {
    const launcher = new FakeLauncher({ idle: true });
    await using pair = await startPair(launcher, BINARY);
    const action = refuse('made up', 'DeviceNotActive');
    launcher.faults.add({ at: { command: 'query-block' }, incoming: true, action });
    await pair.source.qmp.execute('query-block');
    await expect(pair.destination.qmp.execute('query-block')).rejects.toMatchObject({
      errorClass: 'DeviceNotActive',
    });
    await pair.destination.qmp.execute('query-block');
  });

  test('a QEMU dies before an event, which nobody then hears', async () => {
    const launcher = new FakeLauncher({ idle: true });
    await using pair = await startPair(launcher, BINARY);
    launcher.faults.add({ at: { event: 'MIGRATION', status: 'pre-switchover' }, action: die });
    await expect(migrateUntil(pair, 'pre-switchover')).rejects.toMatchObject({
      name: 'QmpClosedError',
    });
    expect(await pair.source.qemu.exited).toEqual({ code: undefined, signal: 'SIGKILL' });
    expect(pair.source.events).not.toContain('MIGRATION pre-switchover');
  });

  test('a QEMU that is held answers out-of-band commands only', async () => {
    const launcher = new FakeLauncher({ idle: true });
    await using pair = await startPair(launcher, BINARY);
    const held = hold();
    launcher.faults.add({ at: { command: 'stop' }, action: held.action });
    const stopped = pair.source.qmp.execute('stop');
    await held.reached;
    await expect(
      pair.source.qmp.execute('query-status', {}, { limitMs: 50 }),
    ).rejects.toMatchObject({
      name: 'QmpTimeoutError',
    });
    await pair.source.qmp.executeOob('query-yank');
    held.release();
    await stopped;
  });

  test('dropped monitors can be connected again, and the process lives', async () => {
    const launcher = new FakeLauncher({ idle: true });
    await using pair = await startPair(launcher, BINARY);
    launcher.faults.add({ at: { command: 'query-jobs' }, incoming: false, action: dropMonitors });
    const closed: Promise<QmpClosedError> = pair.source.qmp.closed;
    await expect(pair.source.qmp.execute('query-jobs')).rejects.toMatchObject({
      name: 'QmpClosedError',
    });
    await closed;
    const again = await QemuProcess.attach(launcher, pair.source.qemu.record);
    expect(await again?.qmp.execute('query-status')).toMatchObject({ running: true });
    await again?.detach();
  });

  test('a full disk on the destination fails the mirror', async () => {
    const launcher = new FakeLauncher();
    await using pair = await startPair(launcher, BINARY);
    await written(launcher, 0, 5);
    launcher.faults.add({ at: { nbd: 'write' }, action: refuse('No space left on device') });
    await exportDisk(pair);
    using concluded = pair.source.qmp.listen('BLOCK_JOB_COMPLETED');
    await addTarget(pair);
    await startMirror(pair);
    await concluded.next({ signal: pair.signal });
    expect(await pair.source.qmp.execute('query-jobs')).toMatchObject([
      { status: 'concluded', error: 'No space left on device' },
    ]);
  });
});

import { afterEach, expect, test } from 'vitest';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import type { FakeQemu } from '../support/fake-qemu/qemu.js';
import { die, FakeLauncher, judgeFakeGuest, refuse } from '../support/fake-qemu.js';
import { moveGuest } from '../support/move-guest.js';
import { type Actor, QemuStage } from '../support/qemu-stage.js';

const MIB = 1024 ** 2;

let stage: QemuStage;
let launcher: FakeLauncher;
afterEach(() => stage[Symbol.asyncDispose]());

/** Commands sent so far, with the name of the QEMU they were sent to. */
let sent: { readonly to: string; readonly command: string }[];

async function open(): Promise<Actor> {
  launcher = new FakeLauncher();
  sent = [];
  stage = await QemuStage.open({
    launcher,
    disks: [
      { id: 'root', sizeBytes: MIB },
      { id: 'data', sizeBytes: MIB, bus: 'virtio-scsi' },
    ],
    transcript: (to, direction, message) => {
      const { execute } = message as { execute?: string };
      if (direction === 'sent' && execute !== undefined) sent.push({ to, command: execute });
    },
  });
  const source = await stage.start('s', 'stopped');
  await source.process.qmp.execute('cont');
  await written(0);
  return source;
}

/** Waits until the guest has had some more writes acknowledged by the QEMU of that number. */
async function written(index: number): Promise<void> {
  const count = () => launcher.qemus[index]?.acknowledged.length ?? 0;
  const before = count();
  await expect.poll(count, { interval: 5, timeout: 5000 }).toBeGreaterThan(before + 5);
}

/** Tries to move the guest to a new twin. */
async function attempt(
  source: Actor,
  name: string,
): Promise<{ readonly twin: Actor; readonly error: unknown }> {
  const twin = await stage.start(name, 'incoming');
  const error = await moveGuest(stage, source, twin).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return { twin, error };
}

async function expectUntouched(source: Actor): Promise<void> {
  const { qmp } = source.process;
  expect(await qmp.execute('query-status')).toMatchObject({ status: 'running' });
  expect(await qmp.execute('query-jobs')).toEqual([]);
  const nodes = await qmp.execute('query-named-block-nodes', { flat: true });
  expect(nodes.filter(({ drv }) => drv === 'nbd')).toEqual([]);
  const objects = await qmp.execute('qom-list', { path: '/objects' });
  expect(objects.filter(({ name }) => name.includes('psk'))).toEqual([]);
  await written(0);
}

async function expectMoves(source: Actor): Promise<void> {
  const { twin, error } = await attempt(source, 'last');
  expect(error).toBeUndefined();
  await written(launcher.qemus.length - 1);
  await twin.process.kill();
  const images = stage.spec.disks.map(({ id }) => twin.imagePath(id));
  expect(judgeFakeGuest(launcher.qemus, images)).toEqual({ doubled: [], skipped: [], lost: [] });
  expect(stage.problems).toEqual([]);
}

/** From here on the guest is the destination's, and what goes wrong is the handover's affair. */
const AFTER_OWNERSHIP = ['cont', 'quit', 'announce-self'];
/**
 * Sent only to find what an agent that died left behind, to keep others from the images, and to
 * choose the order of the disks: without an answer the move goes on.
 */
const NOT_NEEDED = ['query-jobs', 'blockdev-set-active', 'query-blockstats'];

/** The commands of a move that succeeds, each once, up to the destination's ownership. */
async function commandsTo(name: 's' | 'last'): Promise<readonly string[]> {
  const source = await open();
  sent = [];
  await expectMoves(source);
  await stage[Symbol.asyncDispose]();
  const commands = sent.filter(({ to }) => to === name).map(({ command }) => command);
  return [...new Set(commands)].filter(
    (command) => command !== 'qmp_capabilities' && !AFTER_OWNERSHIP.includes(command),
  );
}

test.each([
  ['source', 's', 12],
  ['destination', 'last', 8],
] as const)(
  'whatever command the %s QEMU refuses, the guest stays and the next move succeeds',
  async (side, name, atLeast) => {
    const commands = await commandsTo(name);
    expect(commands.length).toBeGreaterThan(atLeast);
    const source = await open();
    // At the destination the first one is of the RAM's key, which nobody needs any more.
    const spared = side === 'destination' ? [...NOT_NEEDED, 'object-del'] : NOT_NEEDED;
    for (const command of commands.filter((each) => !spared.includes(each))) {
      launcher.faults.add({
        at: { command },
        incoming: side === 'destination',
        action: refuse('Not today.'),
      });
      const { error } = await attempt(source, `d-${command}`);
      expect(error, command).toBeInstanceOf(ReasonedError);
      launcher.faults.clear();
      await expectUntouched(source);
    }
    await expectMoves(source);
  },
);

test.each(['before', 'after'] as const)(
  'the destination QEMU may die %s any command, the guest stays and the next move succeeds',
  async (when) => {
    const commands = await commandsTo('last');
    const source = await open();
    for (const command of commands) {
      launcher.faults.add({ at: { command }, when, incoming: true, action: die });
      const { error } = await attempt(source, `d-${command}`);
      expect(error, command).toBeInstanceOf(ReasonedError);
      launcher.faults.clear();
      await expectUntouched(source);
    }
    await expectMoves(source);
  },
);

test('when the source QEMU dies at any command, the move says so and the guest runs nowhere', async () => {
  const commands = await commandsTo('s');
  // Nobody waits for the lock of the images, which comes when QEMU has done all it is needed for.
  for (const command of commands.filter((each) => each !== 'blockdev-set-active')) {
    const source = await open();
    launcher.faults.add({ at: { command }, incoming: false, action: die });
    const { error } = await attempt(source, 'd');
    expect(error, command).toMatchObject({ reason: 'SOURCE_QEMU_DIED', side: 'source' });
    expect(launcher.qemus[1]?.acknowledged).toEqual([]);
    await stage[Symbol.asyncDispose]();
  }
});

test('a guest that powers off while its mirrors settle has stopped; no mirror has failed', async () => {
  const source = await open();
  launcher.faults.add({
    at: { command: 'block-job-cancel' },
    incoming: false,
    action: async (target) => {
      const qemu = target as FakeQemu;
      const { jobs } = qemu;
      // In QEMU's order: it ends its jobs on its way out.
      await qemu.emit('SHUTDOWN', { guest: true, reason: 'guest-shutdown' });
      for (const job of jobs.values()) job.cancel(true);
      await expect
        .poll(() => [...jobs.values()].every(({ status }) => status === 'concluded'))
        .toBe(true);
      qemu.exit(0);
    },
  });
  const { error } = await attempt(source, 'd-off');
  expect(error).toMatchObject({ reason: 'GUEST_STOPPED' });
});

test('a disk server that does not take a mirror is not taken for a fault of the source', async () => {
  const source = await open();
  launcher.faults.add({
    at: { command: 'blockdev-add' },
    incoming: false,
    action: refuse('Failed to read initial magic'),
  });
  const { error } = await attempt(source, 'd-deaf');
  expect(error).toMatchObject({
    reason: 'MIRROR_FAILED',
    message: expect.stringContaining('Failed to read initial magic'),
    side: 'destination',
  });
  await expectMoves(source);
});

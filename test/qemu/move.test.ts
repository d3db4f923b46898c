import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { readDisk } from '../support/blocks.js';
import { Ledger } from '../support/ledger.js';
import { type MoveHooks, moveGuest } from '../support/move-guest.js';
import { type Actor, QemuStage, type StageSpec } from '../support/qemu-stage.js';

const MIB = 1024 ** 2;
const limit = { limitMs: 20_000 };

let stage: QemuStage;
afterEach(() => stage[Symbol.asyncDispose]());

async function open(options: StageSpec = {}): Promise<Actor> {
  stage = await QemuStage.open(options);
  const source = await stage.start('s', 'stopped');
  await source.process.qmp.execute('cont');
  await source.serial.waitForWrites(20, limit);
  return source;
}

const runState = async ({ process }: Actor) => (await process.qmp.execute('query-status')).status;

/** No write lost, none twice, by what the guest printed here and there and what is on the disks. */
async function verdict(...actors: readonly Actor[]): Promise<void> {
  const last = actors.at(-1)!;
  await last.process.quit();
  const ledger = new Ledger(actors.map(({ serial }) => serial.cut()));
  expect(ledger.describeFaults()).toBe('');
  for (const { id, format } of stage.spec.disks) {
    const content = await readDisk(last.imagePath(id), { guest: 'boot-sector', format });
    expect(ledger.lostWrites(content)).toEqual([]);
    expect(content.tornSlots).toEqual([]);
  }
}

/** The source's QEMU is as if there had never been a migration, and the guest goes on. */
async function expectUntouched(source: Actor): Promise<void> {
  const { qmp } = source.process;
  expect(await qmp.execute('query-status')).toMatchObject({ status: 'running' });
  expect(await qmp.execute('query-jobs')).toEqual([]);
  const nodes = await qmp.execute('query-named-block-nodes', { flat: true });
  expect(nodes.filter((node) => node.drv === 'nbd')).toEqual([]);
  const objects = await qmp.execute('qom-list', { path: '/objects' });
  expect(objects.filter(({ name }) => name.includes('psk'))).toEqual([]);
  expect(existsSync(join(source.directory, 'psk'))).toBe(false);
  expect(existsSync(join(source.directory, 'ram.sock'))).toBe(false);
  await source.serial.waitForWrites(20, limit);
}

async function expectMoves(source: Actor, name = 'last'): Promise<Actor> {
  const twin = await stage.start(name, 'incoming');
  await moveGuest(stage, source, twin);
  await twin.serial.waitForWrites(50, limit);
  return twin;
}

test('a running guest moves with its disk, and no acknowledged write is lost', async () => {
  const source = await open();
  await verdict(source, await expectMoves(source));
  expect(stage.problems).toEqual([]);
});

test('four disks on three buses and two formats move together', async () => {
  const common = { sizeBytes: 8 * MIB, cache: 'writethrough' };
  const source = await open({
    machine: 'pc',
    disks: [
      { id: 'root', ...common },
      { id: 'scsi', bus: 'virtio-scsi', format: 'qcow2', ...common },
      { id: 'ide', bus: 'ide', ...common },
      { id: 'more', format: 'qcow2', ...common },
    ],
  });
  await verdict(source, await expectMoves(source));
  expect(stage.problems).toEqual([]);
});

test('a guest whose only disk is shared moves without a mirror', async () => {
  const source = await open({
    disks: [{ id: 'root', sizeBytes: 8 * MIB, cache: 'writethrough', shared: true }],
  });
  await verdict(source, await expectMoves(source));
});

test('a guest that its user has paused arrives paused, and can be resumed there', async () => {
  const source = await open();
  await source.process.qmp.execute('stop');
  const twin = await stage.start('d', 'incoming');
  await moveGuest(stage, source, twin);
  expect(await runState(twin)).toBe('paused');
  expect(twin.serial.lines).toHaveLength(0);
  await twin.process.qmp.execute('cont');
  await twin.serial.waitForWrites(20, limit);
  await verdict(source, twin);
});

test('a guest that its user pauses while RAM is sent arrives paused', async () => {
  const source = await open();
  const twin = await stage.start('d', 'incoming');
  await moveGuest(stage, source, twin, {
    ramBandwidth: MIB / 4,
    precopy: async () => {
      await source.process.qmp.execute('stop');
      await source.process.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
    },
  });
  expect(await runState(twin)).toBe('paused');
  await verdict(source, twin);
});

test.each(['paused', 'loaded'] as const)(
  'a paused guest whose move fails when %s stays paused, and can move after that',
  async (moment) => {
    const source = await open();
    await source.process.qmp.execute('stop');
    const twin = await stage.start('d', 'incoming');
    const failed = moveGuest(stage, source, twin, {
      [moment]: () => {
        throw new Error('No.');
      },
    });
    await expect(failed).rejects.toThrow('No.');
    expect(await runState(source)).toBe('paused');
    const last = await stage.start('last', 'incoming');
    await moveGuest(stage, source, last);
    expect(await runState(last)).toBe('paused');
    await verdict(source, last);
    expect(stage.problems).toEqual([]);
  },
);

type Moment = 'mirroring' | 'ready' | 'precopy' | 'paused' | 'settled' | 'loaded';

/** Slow where the move must still be in that phase when the fault comes. */
const slow = (moment: Moment): MoveHooks => ({
  ...(moment === 'mirroring' ? { mirrorBandwidth: 4 * MIB } : {}),
  ...(moment === 'precopy' ? { ramBandwidth: MIB / 4 } : {}),
});

/** Makes sure that the phase which a fault is to strike has not ended yet. */
function inTime(source: Actor, moment: Moment, hooks: MoveHooks): MoveHooks {
  const { qmp } = source.process;
  const strike = hooks[moment];
  if (moment !== 'mirroring' && moment !== 'precopy') return hooks;
  return {
    ...hooks,
    [moment]: async () => {
      if (moment === 'mirroring') {
        expect(await qmp.execute('query-jobs')).toMatchObject([{ status: 'running' }]);
      } else {
        expect(['setup', 'active']).toContain((await qmp.execute('query-migrate')).status);
      }
      return await strike?.();
    },
  };
}

/** Lets moves fail in each of these moments, with the same source, and then one succeed. */
async function failInEach(
  faults: Partial<Record<Moment, readonly string[]>>,
  hooks: (source: Actor, twin: Actor, moment: Moment) => MoveHooks,
): Promise<void> {
  const source = await open({ filledBytes: 8 * MIB });
  for (const [moment, reasons] of Object.entries(faults) as [Moment, readonly string[]][]) {
    const twin = await stage.start(moment, 'incoming');
    const error = await moveGuest(stage, source, twin, {
      ...slow(moment),
      ...inTime(source, moment, hooks(source, twin, moment)),
    }).then(
      () => new Error('It succeeded.'),
      (reason: unknown) => reason,
    );
    const reason = error instanceof ReasonedError ? error.reason : String(error);
    expect(reasons, `${moment}: ${error}`).toContain(reason);
    await expectUntouched(source);
    expect(twin.serial.lines).toHaveLength(0);
  }
  await verdict(source, await expectMoves(source));
  expect(stage.problems).toEqual([]);
}

test('a move that is given up in any phase leaves the guest as it was, and the next succeeds', async () => {
  const givenUp = ['Error: Given up.'];
  await failInEach(
    {
      mirroring: givenUp,
      ready: givenUp,
      precopy: givenUp,
      paused: givenUp,
      settled: givenUp,
      loaded: givenUp,
    },
    (_source, _twin, moment) => ({
      [moment]: () => {
        throw new Error('Given up.');
      },
    }),
  );
});

test('the end of the destination QEMU in any phase leaves the guest here, and the next succeeds', async () => {
  await failInEach(
    {
      mirroring: ['MIRROR_FAILED'],
      ready: ['MIRROR_FAILED', 'DEST_QEMU_DIED'],
      // Whichever connection breaks first is told.
      precopy: ['RAM_FAILED', 'MIRROR_FAILED'],
      paused: ['MIRROR_FAILED'],
      settled: ['RAM_FAILED'],
      loaded: ['DEST_QEMU_DIED'],
    },
    (_source, twin, moment) => ({ [moment]: () => twin.process.kill() }),
  );
});

test('a cut of the RAM stream in any phase leaves the guest here, and the next succeeds', async () => {
  await failInEach(
    { precopy: ['RAM_FAILED'], paused: ['RAM_FAILED'], settled: ['RAM_FAILED'] },
    (source, _twin, moment) => ({
      [moment]: () => source.process.qmp.executeOob('yank', { instances: [{ type: 'migration' }] }),
    }),
  );
});

test('a cut of the NBD connection in any phase leaves the guest here, and the next succeeds', async () => {
  await failInEach(
    {
      mirroring: ['MIRROR_FAILED'],
      ready: ['MIRROR_FAILED'],
      precopy: ['MIRROR_FAILED'],
      paused: ['MIRROR_FAILED'],
    },
    (source, _twin, moment) => ({
      [moment]: async () => {
        const instances = [{ type: 'block-node', 'node-name': 'target-root' }] as const;
        await source.process.qmp.executeOob('yank', { instances });
      },
    }),
  );
});

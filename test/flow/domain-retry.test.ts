import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeHost, fakeSpec } from '../support/fake-host.js';
import { judgeFakeGuest } from '../support/fake-qemu.js';
import { SteppedMove } from '../support/stepped-move.js';

const MIB = 1024 ** 2;
const { signal } = new AbortController();

let here: FakeHost;
let there: FakeHost;
let move: SteppedMove;

/** Moves a guest until its RAM breaks off in the switchover, before the mirrors have settled. */
async function breakOff(changes: object = {}): Promise<void> {
  await here.domains.create({ ...fakeSpec, ...changes }, { signal });
  await here.domains.start('web1', { paused: false }, { signal });
  await written(here);
  move = new SteppedMove(here, there);
  await (await (await move.prepare()).mirror()).precopy();
  await (await move.switchover()).giveRamUp();
  await written(here);
}

/** Waits until the guest has had some more writes acknowledged by the newest QEMU of a host. */
async function written(host: FakeHost): Promise<void> {
  const count = () => host.launcher.qemus.at(-1)?.acknowledged.length ?? 0;
  const before = count();
  await expect.poll(count, { interval: 5, timeout: 5000 }).toBeGreaterThan(before + 3);
}

const sent = (host: FakeHost, command: string) =>
  host.launcher.qemus.flatMap(({ received }) => received).filter((one) => one.command === command);

async function expectArrived(): Promise<void> {
  await written(there);
  expect(there.launcher.alive).toHaveLength(1);
  const arrived = { state: 'RUNNING', ownerHost: 'there', generation: 2 };
  expect(await (await there.stage.reopen()).get('web1')).toMatchObject(arrived);
  expect(there.stage.problems).toEqual([]);
  expect(here.stage.problems).toEqual([]);
  await there.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
  expect(await readdir(there.stage.settings.directories.run)).toEqual([]);
  const images = [join(there.stage.pool(), move.uuid, 'root.raw')];
  const runs = [...here.launcher.qemus, ...there.launcher.qemus];
  expect(judgeFakeGuest(runs, images)).toEqual({ doubled: [], skipped: [], lost: [] });
}

async function expectNothingThere(): Promise<void> {
  expect(await there.stage.leftovers()).toEqual([]);
  expect(await there.domains.list()).toEqual([]);
  expect(there.launcher.alive).toEqual([]);
  await there.domains.create(fakeSpec, { signal });
  await there.domains.start('web1', { paused: true }, { signal });
}

beforeEach(async () => {
  here = await new FakeHost({}, { idle: false }).open();
  there = await new FakeHost({ host: 'there' }, { idle: false }).open();
});
afterEach(async () => {
  await here.close();
  await there.close();
});

describe('RAM that is sent once more', () => {
  it('is taken by a further QEMU, and the one that served the disks ends before the guest runs', async () => {
    await breakOff();
    const aliveAtStart: number[] = [];
    there.launcher.faults.add({
      at: { command: 'cont' },
      action: () => void aliveAtStart.push(there.launcher.alive.length),
    });
    await move.finish(2);
    expect(aliveAtStart).toEqual([1]);
    expect(there.launcher.qemus.map(({ alive }) => alive)).toEqual([false, true]);
    expect(sent(here, 'blockdev-mirror')).toHaveLength(1);
    await expectArrived();
  });

  it('may break off again', async () => {
    await breakOff();
    await (await (await move.precopy(2)).switchover()).giveRamUp();
    await written(here);
    await expect(
      move.incoming.acceptRam({ signal, transport: 'direct', attempt: 1 }),
    ).rejects.toMatchObject({
      reason: 'RAM_FAILED',
    });
    // Enough for the first, which serves the disks, and one more: the second's is free again.
    there.freeBytes = 170 * MIB;
    await move.finish(3);
    expect(there.launcher.qemus.map(({ alive }) => alive)).toEqual([false, false, true]);
    await expectArrived();
  });

  it('leaves nothing of either QEMU when it is given up', async () => {
    await breakOff();
    await (await (await move.precopy(2)).switchover()).giveRamUp();
    expect(there.launcher.alive).toHaveLength(2);
    await move.mirrors[Symbol.asyncDispose]();
    await move.incoming[Symbol.asyncDispose]();
    await expectNothingThere();
  });

  it('is refused once the disk server has stopped', async () => {
    await here.domains.create(fakeSpec, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    move = new SteppedMove(here, there);
    await (await (await move.prepare()).mirror()).precopy();
    await (await (await (await move.switchover()).settle()).complete()).load();
    await expect(
      move.incoming.acceptRam({ signal, transport: 'direct', attempt: 2 }),
    ).rejects.toMatchObject({
      reason: 'RAM_FAILED',
    });
    await move.handOver();
    await expectArrived();
  });

  it('is refused for a domain with a tap, and where there is no memory for two', async () => {
    await breakOff();
    there.freeBytes = 100 * MIB;
    await expect(move.precopy(2)).rejects.toMatchObject({ reason: 'NO_MEMORY' });
    expect(there.launcher.alive).toHaveLength(1);
    await move.mirrors[Symbol.asyncDispose]();
    await move.incoming[Symbol.asyncDispose]();
    await expectNothingThere();
    await there.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
    await there.domains.delete('web1', { tombstone: false });
    await here.domains.unclaim(move.uuid, 'm1');
    await here.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
    await here.domains.delete('web1', { tombstone: false });
    await breakOff({ nics: [{ id: 'a', type: 'tap', bridge: 'br0' }] });
    await expect(move.precopy(2)).rejects.toMatchObject({ reason: 'RAM_FAILED' });
    await move.mirrors[Symbol.asyncDispose]();
    await move.incoming[Symbol.asyncDispose]();
    expect(there.taps.size).toBe(0);
  });

  it.each([
    ['before it has come', 'gone'],
    ['while it comes', 'gone'],
    ['once it is loaded', 'loaded'],
  ] as const)("that the agent's end finds %s is %s", async (when, state) => {
    await breakOff();
    if (when === 'before it has come')
      await move.incoming.acceptRam({ signal, transport: 'direct', attempt: 2 });
    else await (await move.precopy(2)).switchover();
    if (state === 'loaded') await (await (await move.settle()).complete()).load();
    else move.cut();
    const domains = await there.stage.reopen();
    const found = await domains.recoverIncoming(move.uuid, 'm1', { signal });
    if (!found) throw new Error('Nothing was found.');
    expect(await found.observe({ signal })).toBe(state);
    if (state === 'gone') {
      await found[Symbol.asyncDispose]();
      await move.ram[Symbol.asyncDispose]();
      await move.mirrors[Symbol.asyncDispose]();
      await expectNothingThere();
    } else {
      move.incoming = found;
      await move.handOver();
      await expectArrived();
    }
  });
});

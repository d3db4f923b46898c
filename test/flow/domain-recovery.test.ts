import { existsSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { IncomingDomain, OutgoingDomain } from '../../src/domain/types.js';
import { FakeHost, fakeSpec } from '../support/fake-host.js';
import { judgeFakeGuest } from '../support/fake-qemu.js';
import { SteppedMove } from '../support/stepped-move.js';

const MIB = 1024 ** 2;
const { signal } = new AbortController();

let here: FakeHost;
let there: FakeHost;
let move: SteppedMove;

/** Runs the guest on `here` and waits until it has written a little. */
async function run(changes: object = {}): Promise<SteppedMove> {
  await here.domains.create({ ...fakeSpec, ...changes }, { signal });
  await here.domains.start('web1', { paused: false }, { signal });
  await written(here);
  move = new SteppedMove(here, there);
  return move;
}

/** Waits until the guest has had some more writes acknowledged by the newest QEMU of a host. */
async function written(host: FakeHost): Promise<void> {
  const count = () => host.launcher.qemus.at(-1)?.acknowledged.length ?? 0;
  const before = count();
  await expect.poll(count, { interval: 5, timeout: 5000 }).toBeGreaterThan(before + 3);
}

/** The next life of the destination's agent finds the domain again. */
async function recoverThere(): Promise<IncomingDomain> {
  move.cut();
  const domains = await there.stage.reopen();
  const found = await domains.recoverIncoming(move.uuid, 'm1', { signal });
  if (!found) throw new Error('Nothing was found.');
  move.incoming = found;
  return found;
}

/** The next life of the source's agent finds the domain again. */
async function recoverHere(): Promise<OutgoingDomain> {
  move.cut();
  const domains = await here.stage.reopen();
  const found = domains.recoverOutgoing(move.uuid, 'm1');
  if (!found) throw new Error('Nothing was found.');
  if (found.domain) move.domain = found.domain;
  return found;
}

const sent = (host: FakeHost, command: string) =>
  host.launcher.qemus.flatMap(({ received }) => received).filter((one) => one.command === command);

async function expectArrived(): Promise<void> {
  await written(there);
  const arrived = { state: 'RUNNING', ownerHost: 'there', generation: 2 };
  expect(await there.domains.get('web1')).toMatchObject(arrived);
  expect(await here.domains.get('web1')).toMatchObject({ state: 'MOVED', ownerHost: 'there' });
  for (const qemu of there.launcher.alive) qemu.die();
  const images = [join(there.stage.pool(), move.uuid, 'root.raw')];
  const runs = [...here.launcher.qemus, ...there.launcher.qemus];
  expect(judgeFakeGuest(runs, images)).toEqual({ doubled: [], skipped: [], lost: [] });
}

async function expectNothingThere(): Promise<void> {
  expect(await there.stage.leftovers()).toEqual([]);
  expect(await there.domains.list()).toEqual([]);
  expect(there.launcher.alive).toEqual([]);
  expect(there.taps.size).toBe(0);
}

beforeEach(async () => {
  here = await new FakeHost({}, { idle: false }).open();
  there = await new FakeHost({ host: 'there' }, { idle: false }).open();
});
afterEach(async () => {
  await here.close();
  await there.close();
});

describe("a domain on its way in, after its agent's end,", () => {
  it('waits as before: the same exports, and its mirrors go on to the end', async () => {
    await (await (await run()).prepare()).mirror();
    const before = await move.incoming.exportDisks({ signal, transport: 'direct' });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    expect(incoming.mayHaveRun).toBe(false);
    expect(await incoming.exportDisks({ signal, transport: 'direct' })).toEqual(before);
    await move.finish();
    await expectArrived();
    expect(sent(there, 'nbd-server-start')).toHaveLength(1);
    expect(there.stage.problems).toEqual([]);
  });

  it('holds its name, its UUID and its memory, until it is recovered and after that', async () => {
    await (await run()).prepare();
    there.freeBytes = 100 * MIB;
    await there.stage.reopen();
    expect(await there.domains.get('web1')).toMatchObject({
      state: 'INCOMING',
      ownerHost: 'here',
      migrationId: 'm1',
      generation: 1,
    });
    const taken = { reason: 'DOMAIN_EXISTS' };
    await expect(there.domains.create(fakeSpec, { signal })).rejects.toMatchObject(taken);
    expect(await there.domains.recoverIncoming(move.uuid, 'm2', { signal })).toBeUndefined();
    const incoming = await there.domains.recoverIncoming(move.uuid, 'm1', { signal });
    expect(await there.domains.recoverIncoming(move.uuid, 'm1', { signal })).toBeUndefined();
    await expect(there.domains.create(fakeSpec, { signal })).rejects.toMatchObject(taken);
    await there.domains.create({ ...fakeSpec, name: 'other' }, { signal });
    await expect(there.domains.start('other', { paused: true }, { signal })).rejects.toMatchObject({
      reason: 'NO_MEMORY',
    });
    await there.domains.sweep({ signal });
    expect(incoming?.alive).toBe(true);
    await incoming?.[Symbol.asyncDispose]();
    await there.domains.start('other', { paused: true }, { signal });
    await there.domains.stop('other', { force: true, timeLimitMs: 1 }, { signal });
    await there.domains.delete('other', { tombstone: false });
    await expectNothingThere();
  });

  it('takes the RAM that was prepared for, as long as no byte of it has come', async () => {
    await (await (await run()).prepare()).mirror();
    await move.incoming.acceptRam({ signal, transport: 'direct' });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    await move.finish();
    await expectArrived();
    expect(sent(there, 'migrate-incoming')).toHaveLength(1);
  });

  it('goes on taking RAM that comes from QEMU to QEMU', async () => {
    await (await (await (await run()).prepare()).mirror()).sendRam();
    await move.ram.sentOnce({ signal });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    const again = await incoming.acceptRam({ signal, transport: 'direct' });
    expect(again.psk).toHaveLength(32);
    move.loading = incoming.loaded({ signal });
    await move.ram.allowPause();
    await (await (await move.switchover()).settle()).complete();
    await (await move.load()).handOver();
    await expectArrived();
    expect(sent(there, 'migrate-incoming')).toHaveLength(1);
  });

  it('waits for the QEMU of its source where it did before, with the same key', async () => {
    await (await (await run()).prepare()).mirror();
    const before = await move.incoming.acceptRam({ signal, transport: 'direct' });
    const incoming = await recoverThere();
    expect(await incoming.acceptRam({ signal, transport: 'direct' })).toEqual(before);
    await move.finish();
    await expectArrived();
  });

  it('is of no use once RAM has begun to come through it, and goes without a trace', async () => {
    const nics = [{ id: 'a', type: 'tap', bridge: 'br0' }];
    await (await run({ nics })).prepare();
    move.transport = 'stream';
    await (await move.mirror()).precopy();
    await move.switchover();
    expect(there.taps.size).toBe(1);
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('gone');
    expect(incoming.alive).toBe(true);
    await incoming[Symbol.asyncDispose]();
    await expectNothingThere();
    await move.ram[Symbol.asyncDispose]();
    await move.mirrors[Symbol.asyncDispose]();
    await written(here);
  });

  it.each(['before', 'after'] as const)(
    'that is loaded is loaded at once, whether its disk server was stopped %s that',
    async (when) => {
      await (await (await (await run()).prepare()).mirror()).precopy();
      await (await move.switchover()).settle();
      if (when === 'after') {
        there.launcher.faults.add({
          at: { command: 'nbd-server-stop' },
          action: (qemu) => qemu.dropMonitors(),
        });
      }
      await move.complete();
      await move.loading.catch(() => undefined);
      const incoming = await recoverThere();
      expect(await incoming.observe({ signal })).toBe('loaded');
      expect(await incoming.loaded({ signal })).toEqual({
        allocatedBytes: { root: expect.any(Number) },
      });
      expect(there.launcher.alive[0]?.exports.size).toBe(0);
      await move.handOver();
      await expect.poll(() => there.launcher.alive[0]?.objects.list()).toEqual([]);
      await expectArrived();
    },
  );

  it('that was resumed goes on, arrives, and is not resumed again', async () => {
    await (await (await (await run()).prepare()).mirror()).precopy();
    await (await (await move.switchover()).settle()).complete();
    await (await move.load()).incoming.resume({ paused: false }, { signal });
    await written(there);
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('running');
    expect(incoming.mayHaveRun).toBe(true);
    await incoming.resume({ paused: false }, { signal });
    expect(sent(there, 'cont')).toHaveLength(1);
    await incoming.arrive();
    move.ram.release();
    await move.domain.retire('there');
    await expectArrived();
  });

  it('whose QEMU has gone leaves its images to this host, or nothing', async () => {
    const nics = [{ id: 'a', type: 'tap', bridge: 'br0' }];
    for (const end of ['arrives', 'goes'] as const) {
      await (await (end === 'arrives' ? await run({ nics }) : move).prepare()).mirror();
      for (const qemu of there.launcher.alive) qemu.die();
      const incoming = await recoverThere();
      expect(incoming.alive).toBe(false);
      expect(await incoming.observe({ signal })).toBe('gone');
      await expect(incoming.loaded({ signal })).rejects.toMatchObject({ reason: 'DEST_QEMU_DIED' });
      await incoming.kill();
      if (end === 'arrives') {
        await incoming.arrive();
        await incoming[Symbol.asyncDispose]();
        expect(await there.domains.get('web1')).toMatchObject({ state: 'STOPPED', generation: 2 });
        await expect.poll(() => there.taps.size).toBe(0);
        const domains = await there.stage.reopen();
        await domains.start('web1', { paused: false }, { signal });
        await domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
        await domains.delete('web1', { tombstone: false });
      } else await incoming[Symbol.asyncDispose]();
      await expectNothingThere();
      await move.mirrors[Symbol.asyncDispose]();
    }
  });

  it('that does not answer is neither ended nor given up, and goes on when it does', async () => {
    await (await (await run()).prepare()).mirror();
    there.launcher.faults.add({
      at: { command: 'query-uuid' },
      times: 2,
      action: (qemu) => qemu.dropMonitors(),
    });
    const incoming = await recoverThere();
    await expect(incoming.observe({ signal })).rejects.toMatchObject({ reason: 'QEMU_ERROR' });
    await there.domains.sweep({ signal });
    expect(there.launcher.alive).toHaveLength(1);
    expect(incoming).toMatchObject({ alive: true, mayHaveRun: true });
    expect(await incoming.observe({ signal })).toBe('waiting');
    await move.finish();
    await expectArrived();
  });

  it('that does not answer can be ended by who knows that it does not run', async () => {
    await (await (await run()).prepare()).mirror();
    there.launcher.faults.add({
      at: { command: 'query-uuid' },
      action: (qemu) => qemu.dropMonitors(),
    });
    const incoming = await recoverThere();
    await incoming.kill();
    expect(await incoming.observe({ signal })).toBe('gone');
    await incoming[Symbol.asyncDispose]();
    await expectNothingThere();
    await move.mirrors[Symbol.asyncDispose]();
  });

  it('is removed by the sweep where nobody asked for it', async () => {
    const nics = [{ id: 'a', type: 'tap', bridge: 'br0' }];
    await (await (await run({ nics })).prepare()).mirror();
    const domains = await there.stage.reopen();
    expect(there.launcher.alive).toHaveLength(1);
    await domains.sweep({ signal });
    await expectNothingThere();
    await move.mirrors[Symbol.asyncDispose]();
  });

  it('is found whichever of the two files of its arrival was the last', async () => {
    await (await (await run()).prepare()).mirror();
    const folder = join(there.stage.settings.directories.state, 'domains', move.uuid);
    const record = readFileSync(join(folder, 'incoming.json'));
    await move.finish();
    expect(existsSync(join(folder, 'incoming.json'))).toBe(false);
    await there.domains.close();
    await writeFile(join(folder, 'incoming.json'), record);
    const incoming = await recoverThere();
    expect(existsSync(join(folder, 'incoming.json'))).toBe(false);
    expect(await incoming.observe({ signal })).toBe('running');
    await incoming.resume({ paused: false }, { signal });
    await incoming.arrive();
    await incoming[Symbol.asyncDispose]();
    // The file has gone now, and the journal may still not know.
    const again = await recoverThere();
    expect(await again.observe({ signal })).toBe('running');
    expect(await there.domains.recoverIncoming(move.uuid, 'm2', { signal })).toBeUndefined();
    for (const qemu of there.launcher.alive) qemu.die();
    await expect.poll(() => again.observe({ signal })).toBe('gone');
    const gone = await recoverThere();
    expect(await gone.observe({ signal })).toBe('gone');
    await gone[Symbol.asyncDispose]();
    expect(await there.domains.get('web1')).toMatchObject({ state: 'STOPPED' });
  });
});

describe('a domain that has come to stay', () => {
  it('is here from the first try to write that on, and the next try may succeed', async () => {
    await (await (await (await run()).prepare()).mirror()).precopy();
    await (await (await move.switchover()).settle()).complete();
    await (await move.load()).incoming.resume({ paused: false }, { signal });
    const folder = join(there.stage.settings.directories.state, 'domains', move.uuid);
    const obstacle = join(folder, '.domain.json.new');
    await mkdir(obstacle);
    const failed = { reason: 'DISK_IO_ERROR' };
    await expect(move.incoming.arrive()).rejects.toMatchObject(failed);
    await expect(move.incoming.arrive()).rejects.toMatchObject(failed);
    expect(await there.domains.get('web1')).toMatchObject({ state: 'RUNNING', generation: 2 });
    await move.incoming[Symbol.asyncDispose]();
    expect(there.launcher.alive).toHaveLength(1);
    rmSync(obstacle, { recursive: true });
    await move.incoming.arrive();
    expect(await readdir(folder)).toEqual(['domain.json']);
    move.ram.release();
    await move.domain.retire('there');
    await there.stage.reopen();
    await expectArrived();
  });
});

describe("a domain that was leaving, after its agent's end,", () => {
  it('still has its mirrors, and the same flow goes on with them', async () => {
    await (await (await run()).prepare()).mirror();
    const leaving = await recoverHere();
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: true });
    await move.mirror();
    expect(await move.mirrors.progress()).toMatchObject([{ diskId: 'root', ready: true }]);
    await move.finish();
    await expectArrived();
    expect(sent(here, 'blockdev-mirror')).toHaveLength(1);
  });

  it('goes on with a mirror that still copies, as fast as it may now', async () => {
    await (await run()).prepare();
    const { signal: limit, transport, domain, incoming } = move;
    const server = await incoming.exportDisks({ signal: limit, transport });
    const slow = { ...move.limits, maxBandwidth: 64 * 1024 };
    await domain.mirror(move.launchSpec.disks, server, slow, { signal: limit, fresh: true });
    await recoverHere();
    Object.assign(move.limits, { maxBandwidth: 64 * MIB });
    await move.mirror();
    await move.finish();
    await expectArrived();
    expect(sent(here, 'blockdev-mirror')).toHaveLength(1);
    const speeds = sent(here, 'block-job-set-speed').map(({ args }) => args['speed']);
    expect(speeds).toContain(64 * MIB);
  });

  it('makes the mirrors that are missing anew, and keeps the others with their key', async () => {
    const disks = ['root', 'data'].map((id) => ({ id, sizeBytes: MIB }));
    await (await (await run({ disks })).prepare()).mirror();
    here.launcher.alive[0]?.jobs.get('mirror-data')?.cancel(true);
    const leaving = await recoverHere();
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: false });
    await move.mirror();
    await move.finish();
    expect(sent(here, 'blockdev-mirror').map(({ args }) => args['job-id'])).toEqual([
      'mirror-root',
      'mirror-data',
      'mirror-data',
    ]);
    expect(here.stage.problems).toEqual([]);
  });

  it.each([
    ['precopy', 'running'],
    ['switchover', 'switching'],
    ['settle', 'switching'],
    ['complete', 'completed'],
  ] as const)('is brought back from %s, and the next migration succeeds', async (upTo, qemu) => {
    await (await (await run()).prepare()).mirror();
    const steps = ['precopy', 'switchover', 'settle', 'complete'] as const;
    if (upTo === 'precopy') here.launcher.guest = { ...here.launcher.guest, passes: 1 };
    for (const step of steps.slice(0, steps.indexOf(upTo) + 1)) {
      if (step === 'precopy' && upTo === 'precopy') {
        Object.assign(move.limits, { maxBandwidth: 100_000 });
      }
      await move[step]();
    }
    const key = join(here.stage.settings.directories.run, move.uuid, 'psk');
    await mkdir(key);
    const leaving = await recoverHere();
    const mirrored = upTo === 'precopy' || upTo === 'switchover';
    expect(await leaving.observe({ signal })).toEqual({ qemu, mirrored });
    await leaving.bringBack({ paused: false });
    await leaving.bringBack({ paused: false });
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: false });
    expect(existsSync(key)).toBe(false);
    expect(here.launcher.alive[0]?.jobs.size).toBe(0);
    expect(here.launcher.alive[0]?.objects.list()).toEqual([]);
    await written(here);
    await move.incoming[Symbol.asyncDispose]();
    here.domains.unclaim(move.uuid, 'm1');
    move = new SteppedMove(here, there);
    await (await move.prepare()).mirror();
    await move.finish();
    await expectArrived();
    expect(here.stage.problems).toEqual([]);
  });

  it.each(['switchover', 'complete'] as const)(
    'stays paused when it is brought back from %s and its user had paused it',
    async (upTo) => {
      await run();
      here.launcher.alive[0]!.runState = 'paused';
      await here.launcher.alive[0]?.guest.stop();
      await (await (await move.prepare()).mirror()).precopy();
      await move.switchover();
      if (upTo === 'complete') await (await move.settle()).complete();
      const leaving = await recoverHere();
      await leaving.bringBack({ paused: true });
      expect(here.launcher.alive).toMatchObject([{ runState: 'paused' }]);
      await move.incoming[Symbol.asyncDispose]();
    },
  );

  it('is left alone where its user has paused it since', async () => {
    await (await (await run()).prepare()).mirror();
    await here.launcher.alive[0]?.stopGuest('paused');
    const leaving = await recoverHere();
    expect(await leaving.observe({ signal })).toMatchObject({ qemu: 'running' });
    await leaving.bringBack({ paused: false });
    expect(here.launcher.alive).toMatchObject([{ runState: 'paused' }]);
    await move.incoming[Symbol.asyncDispose]();
  });

  it('and whose QEMU has gone is only to be retired, as often as one likes', async () => {
    await (await (await run()).prepare()).mirror();
    for (const qemu of here.launcher.alive) qemu.die();
    const leaving = await recoverHere();
    expect(leaving.domain).toBeUndefined();
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'gone', mirrored: false });
    await leaving.bringBack({ paused: false });
    await leaving.retire('there');
    await leaving.retire('there');
    expect(await here.domains.get('web1')).toMatchObject({ state: 'MOVED', generation: 2 });
    expect(here.domains.recoverOutgoing(move.uuid, 'm1')).toBeUndefined();
    await move.incoming[Symbol.asyncDispose]();
  });

  it('and whose QEMU does not answer is asked again, and can be retired all the same', async () => {
    await (await (await run()).prepare()).mirror();
    const silence = {
      at: { command: 'query-uuid' },
      action: (q: { dropMonitors(): void }) => q.dropMonitors(),
    };
    here.launcher.faults.add({ ...silence, times: 2 });
    const leaving = await recoverHere();
    await expect(leaving.observe({ signal })).rejects.toMatchObject({ reason: 'QEMU_ERROR' });
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: true });
    here.launcher.faults.add(silence);
    const again = await recoverHere();
    await again.retire('there');
    expect(here.launcher.alive).toEqual([]);
    expect(await here.domains.get('web1')).toMatchObject({ state: 'MOVED' });
    await move.incoming[Symbol.asyncDispose]();
  });
});

describe('in quarantine', () => {
  it('every domain is in doubt, none comes or is made, and nothing is ended or removed', async () => {
    await (await (await run()).prepare()).mirror();
    await there.domains.create({ ...fakeSpec, name: 'other' }, { signal });
    const quarantine = { reason: 'STATE_FOREIGN', message: 'The state is not its own.' } as const;
    const refusal = { reason: 'STATE_FOREIGN' };
    await rm(join(there.stage.settings.directories.run, move.uuid, 'nothing'), { force: true });
    const domains = await there.stage.reopen(undefined, { quarantine });
    expect(await domains.get('other')).toMatchObject({ state: 'IN_DOUBT', doubt: quarantine });
    for (const refused of [
      () => domains.start('other', { paused: true }, { signal }),
      () => domains.delete('other', { tombstone: false }),
      () => domains.create({ ...fakeSpec, name: 'third' }, { signal }),
      () => domains.recoverIncoming(move.uuid, 'm1', { signal }),
    ]) {
      await expect(refused()).rejects.toMatchObject(refusal);
    }
    await domains.sweep({ signal });
    expect(there.launcher.alive).toHaveLength(1);
    expect(await there.stage.leftovers()).toContain(move.uuid);
    await move.mirrors[Symbol.asyncDispose]();
    const source = await here.stage.reopen(undefined, { quarantine });
    expect(() => source.recoverOutgoing(move.uuid, 'm1')).toThrow(quarantine.message);
    expect(await source.get('web1')).toMatchObject({ state: 'RUNNING', doubt: quarantine });
    await expect(source.startIncoming({} as never, { signal })).rejects.toMatchObject(refusal);
  });
});

import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { IncomingDomain, OutgoingDomain } from '../../src/domain/types.js';
import { readStartTime } from '../../src/process/proc.js';
import { qemuPaths } from '../../src/process/qemu-directory.js';
import { QmpClient } from '../../src/qmp/client.js';
import { createBootSectorImage, readDisk } from '../support/blocks.js';
import { HostStage } from '../support/host-stage.js';
import { Ledger } from '../support/ledger.js';
import { SerialLog } from '../support/serial-log.js';
import { SteppedMove } from '../support/stepped-move.js';

const MIB = 1024 ** 2;
const limit = { limitMs: 20_000 };
const { signal } = new AbortController();
const run = promisify(execFile);

let here: HostStage;
let there: HostStage;
let move: SteppedMove;
let consoleHere: SerialLog;
let consoleThere: SerialLog | undefined;

beforeEach(async () => {
  here = await HostStage.open({ host: 'here' });
  there = await HostStage.open({ host: 'there' });
  await createBootSectorImage(join(here.pool(), 'images', 'boot.raw'), 8 * MIB);
  await here.domains.create(
    {
      name: 'web1',
      memoryBytes: 64 * MIB,
      accelerator: 'tcg',
      serial: { type: 'file' },
      disks: [
        { id: 'root', image: 'boot.raw', sizeBytes: 16 * MIB, cache: 'writethrough' },
        { id: 'data', sizeBytes: 16 * MIB, format: 'qcow2', cache: 'writethrough' },
      ],
    },
    { signal },
  );
  const { serialPath } = await here.domains.start('web1', { paused: false }, { signal });
  consoleHere = SerialLog.file(serialPath, 'here');
  await consoleHere.waitForWrites(20, limit);
  move = new SteppedMove(here, there);
  await move.prepare();
});

afterEach(async () => {
  consoleHere[Symbol.dispose]();
  consoleThere?.[Symbol.dispose]();
  consoleThere = undefined;
  await here[Symbol.asyncDispose]();
  await there[Symbol.asyncDispose]();
});

/** The next life of the destination's agent finds the domain again. */
async function recoverThere(): Promise<IncomingDomain> {
  move.cut();
  const domains = await there.reopen();
  const found = await domains.recoverIncoming(move.uuid, 'm1', { signal });
  if (!found) throw new Error('Nothing was found.');
  move.incoming = found;
  return found;
}

/** The next life of the source's agent finds the domain again. */
async function recoverHere(): Promise<OutgoingDomain> {
  move.cut();
  const domains = await here.reopen();
  const found = domains.recoverOutgoing(move.uuid, 'm1');
  if (!found) throw new Error('Nothing was found.');
  if (found.domain) move.domain = found.domain;
  return found;
}

async function expectArrived(): Promise<void> {
  const { serialPath } = await there.domains.get('web1');
  consoleThere = SerialLog.file(serialPath, 'there');
  await consoleThere.waitForWrites(20, limit);
  expect(await there.domains.get('web1')).toMatchObject({ state: 'RUNNING', generation: 2 });
  expect(await here.domains.get('web1')).toMatchObject({ state: 'MOVED', ownerHost: 'there' });
  expect(here.problems).toEqual([]);
  expect(there.problems).toEqual([]);
  await there.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
  const ledger = new Ledger([consoleHere.cut(), consoleThere.cut()]);
  expect(ledger.describeFaults()).toBe('');
  for (const { id, format } of move.launchSpec.spec.disks) {
    const path = join(there.pool(), move.uuid, `${id}.${format}`);
    const content = await readDisk(path, { guest: 'boot-sector', format });
    expect(ledger.lostWrites(content)).toEqual([]);
    expect(content.tornSlots).toEqual([]);
  }
}

/** Speaks to the source's QEMU past the agent, as a person would. */
async function withRescue<T>(work: (qmp: QmpClient) => Promise<T>): Promise<T> {
  const { rescueMonitor } = qemuPaths(join(here.settings.directories.run, move.uuid));
  await using qmp = await QmpClient.connect(rescueMonitor);
  return await work(qmp);
}

/** Whether another process gets an image of the source open for writing. */
async function canWrite(image: string, format: string): Promise<boolean> {
  const path = join(here.pool(), move.uuid, image);
  return await run('qemu-io', ['-f', format, '-c', 'read 0 512', path]).then(
    () => true,
    () => false,
  );
}

describe("after the agent's end in the mirror phase", () => {
  it('the source attaches to its running mirrors, and the destination to its disk server', async () => {
    await move.mirror();
    const before = await move.incoming.exportDisks({ signal, transport: 'direct' });
    const leaving = await recoverHere();
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: true });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    expect(await incoming.exportDisks({ signal, transport: 'direct' })).toEqual(before);
    const jobs = () => withRescue((qmp) => qmp.execute('query-block-jobs'));
    const found = await jobs();
    await move.mirror();
    const attached = await jobs();
    expect(attached).toHaveLength(found.length);
    // The same jobs: what they had copied counts, and nothing begins again.
    for (const [index, job] of attached.entries()) {
      expect(job.offset).toBeGreaterThanOrEqual(found[index]?.offset ?? Number.NaN);
    }
    const progress = await move.mirrors.progress();
    expect(progress.map(({ ready }) => ready)).toEqual([true, true]);
    expect(progress.every((one) => one.remainingBytes < MIB)).toBe(true);
    await move.finish();
    await expectArrived();
  });

  it('the RAM that was prepared for is taken', async () => {
    await move.mirror();
    const before = await move.incoming.acceptRam({ signal, transport: 'direct' });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    expect(await incoming.acceptRam({ signal, transport: 'direct' })).toEqual(before);
    await move.finish();
    await expectArrived();
  });

  it('a source that goes on alone writes on, and is brought back cleanly', async () => {
    await move.mirror();
    const leaving = await recoverHere();
    await (await recoverThere())[Symbol.asyncDispose]();
    await leaving.bringBack({ paused: false });
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: false });
    expect(await withRescue((qmp) => qmp.execute('query-jobs'))).toEqual([]);
    await consoleHere.waitForWrites(20, limit);
    expect(await there.leftovers()).toEqual([]);
  });
});

describe('an incoming domain', () => {
  it('that is loaded is taken over as it is, and resumed', async () => {
    await (await (await (await move.mirror()).precopy()).switchover()).settle();
    await (await move.complete()).load();
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('loaded');
    const { allocatedBytes } = await incoming.loaded({ signal });
    expect(allocatedBytes['root']).toBeGreaterThan(0);
    await move.handOver();
    expect(await incoming.observe({ signal })).toBe('running');
    await expectArrived();
  });

  it('that runs is taken over as it is', async () => {
    await (await (await (await move.mirror()).precopy()).switchover()).settle();
    await (await move.complete()).load();
    await move.incoming.resume({ paused: false }, { signal });
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('running');
    await move.handOver();
    await expectArrived();
  });

  it.each(['mirror', 'sendRam'] as const)(
    'that took its bytes through the agent is of no use, and goes without a trace: %s',
    async (step) => {
      move.transport = 'stream';
      Object.assign(move.limits, { maxBandwidth: MIB });
      await move.mirror();
      if (step === 'sendRam') await move.sendRam();
      const incoming = await recoverThere();
      expect(await incoming.observe({ signal })).toBe('gone');
      await incoming[Symbol.asyncDispose]();
      expect(await there.leftovers()).toEqual([]);
      if (step === 'sendRam') await move.ram[Symbol.asyncDispose]();
      await move.mirrors[Symbol.asyncDispose]();
      await consoleHere.waitForWrites(20, limit);
    },
  );

  it('whose start was cut short goes with the QEMU that nobody wrote down', async () => {
    const path = join(here.settings.directories.state, 'domains', move.uuid);
    const file = join(path.replace(here.directory, there.directory), 'incoming.json');
    const record = JSON.parse(readFileSync(file, 'utf8'));
    const { pid } = record.definition.process.process;
    delete record.definition.process;
    await there.domains.close();
    writeFileSync(file, JSON.stringify(record));
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('gone');
    await incoming[Symbol.asyncDispose]();
    expect(readStartTime(pid)).toBeUndefined();
    expect(await there.leftovers()).toEqual([]);
  });
});

describe('RAM that goes from QEMU to QEMU', () => {
  beforeEach(async () => {
    Object.assign(move.limits, { maxBandwidth: 64 * 1024 });
    await (await move.mirror()).sendRam();
    await vi.waitFor(async () => expect((await move.ram.progress()).pass).toBe(1), 5_000);
  });

  const sentBytes = async () => (await move.ram.progress()).transferredBytes;

  it("goes on when the destination's agent has ended", async () => {
    const incoming = await recoverThere();
    expect(await incoming.observe({ signal })).toBe('waiting');
    await incoming.acceptRam({ signal, transport: 'direct' });
    move.loading = incoming.loaded({ signal });
    const before = await sentBytes();
    await move.ram.setBandwidth(0);
    await move.ram.sentOnce({ signal });
    await move.ram.allowPause();
    await (await (await move.switchover()).settle()).complete();
    await (await move.load()).handOver();
    expect(before).toBeGreaterThan(0);
    await expectArrived();
  });

  it("goes on when the source's agent has ended, and nothing is sent again", async () => {
    const before = await sentBytes();
    const leaving = await recoverHere();
    expect(await leaving.observe({ signal })).toEqual({ qemu: 'running', mirrored: true });
    await move.mirror();
    await move.sendRam();
    expect(await sentBytes()).toBeGreaterThanOrEqual(before);
    expect((await move.ram.progress()).pass).toBe(1);
    await move.ram.setBandwidth(0);
    await move.ram.sentOnce({ signal });
    await move.ram.allowPause();
    await (await (await move.switchover()).settle()).complete();
    await (await move.load()).handOver();
    await expectArrived();
  });

  it('is sent to another QEMU where it had broken off meanwhile', async () => {
    await here.domains.close();
    await withRescue((qmp) => qmp.execute('migrate_cancel'));
    await recoverHere();
    await move.mirror();
    await move.sendRam();
    await expect(move.ram.sentOnce({ signal })).rejects.toMatchObject({ reason: 'RAM_FAILED' });
    await move.giveRamUp();
    Object.assign(move.limits, { maxBandwidth: 0 });
    await move.finish(2);
    await expectArrived();
  });

  it('is given up by a source that starts again and does not go on', async () => {
    const leaving = await recoverHere();
    await leaving.bringBack({ paused: false });
    const left = await withRescue((qmp) => qmp.execute('qom-list', { path: '/objects' }));
    expect(left.filter(({ name }) => name.startsWith('drover'))).toEqual([]);
    await move.incoming[Symbol.asyncDispose]();
    await consoleHere.waitForWrites(20, limit);
    expect(await there.leftovers()).toEqual([]);
  });
});

describe('once QEMU has sent everything', () => {
  it('the images of the source stay locked, and the guest can be brought back all the same', async () => {
    await (await (await (await move.mirror()).precopy()).switchover()).settle();
    expect(await canWrite('root.raw', 'raw')).toBe(false);
    await (await move.complete()).load();
    expect(await canWrite('root.raw', 'raw')).toBe(false);
    expect(await canWrite('data.qcow2', 'qcow2')).toBe(false);
    const leaving = await recoverHere();
    expect(await canWrite('root.raw', 'raw')).toBe(false);
    expect(await leaving.observe({ signal })).toMatchObject({ qemu: 'completed' });
    await move.incoming[Symbol.asyncDispose]();
    await leaving.bringBack({ paused: false });
    await consoleHere.waitForWrites(20, limit);
    // And it can leave again.
    here.domains.unclaim(move.uuid, 'm1');
    move = new SteppedMove(here, there);
    await (await move.prepare()).mirror();
    await move.finish();
    await expectArrived();
  });

  it('cancelling changes nothing: the guest stays where it stopped', async () => {
    await (await (await (await move.mirror()).precopy()).switchover()).settle();
    await (await move.complete()).load();
    const writes = consoleHere.lines.length;
    await withRescue(async (qmp) => {
      for (let count = 0; count < 3; count++) await qmp.execute('migrate_cancel');
      expect(await qmp.execute('query-status')).toMatchObject({ status: 'postmigrate' });
      expect(await qmp.execute('query-migrate')).toMatchObject({ status: 'completed' });
    });
    expect(consoleHere.lines.length).toBe(writes);
    const guard = await move.ram.guard({ signal });
    expect(guard).toEqual({ fenced: true, settled: true });
    await move.handOver();
    await expectArrived();
  });
});

describe('RAM that broke off before the mirrors had settled', () => {
  it('is sent once more to a further QEMU on the same images', async () => {
    await (await (await move.mirror()).precopy()).switchover();
    await move.giveRamUp();
    await consoleHere.waitForWrites(20, limit);
    const jobs = await withRescue((qmp) => qmp.execute('query-block-jobs'));
    expect(jobs.map(({ status }) => status)).toEqual(['ready', 'ready']);
    await (await (await move.precopy(2)).switchover()).giveRamUp();
    await consoleHere.waitForWrites(20, limit);
    await move.finish(3);
    await expectArrived();
  });

  it('leaves nothing when it is given up for good', async () => {
    await (await (await move.mirror()).precopy()).switchover();
    await (await (await (await move.giveRamUp()).precopy(2)).switchover()).giveRamUp();
    await move.mirrors[Symbol.asyncDispose]();
    await move.incoming[Symbol.asyncDispose]();
    expect(await there.leftovers()).toEqual([]);
    await consoleHere.waitForWrites(20, limit);
  });
});

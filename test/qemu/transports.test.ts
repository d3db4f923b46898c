import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Transport } from '../../src/channel/types.js';
import { PSK_OBJECT } from '../../src/domain/names.js';
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

let here: HostStage;
let there: HostStage;
let logs: SerialLog[];

beforeEach(async () => {
  here = await HostStage.open({ host: 'here' });
  there = await HostStage.open({ host: 'there' });
  for (const host of [here, there]) {
    await createBootSectorImage(join(host.pool(), 'images', 'boot.raw'), 8 * MIB);
  }
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
  await here.domains.start('web1', { paused: false }, { signal });
  logs = [];
  await writes(here, 20);
});

afterEach(async () => {
  for (const log of logs) log[Symbol.dispose]();
  await here[Symbol.asyncDispose]();
  await there[Symbol.asyncDispose]();
});

/** The guest runs on a host and writes there. */
async function writes(host: HostStage, count: number): Promise<void> {
  const { serialPath } = await host.domains.get('web1');
  const name = `${host.settings.host} ${logs.length}`;
  const log = SerialLog.file(serialPath, name);
  logs.push(log);
  await log.waitForWrites(count, limit);
}

async function prepared(from: HostStage, to: HostStage, transport: Transport) {
  const move = new SteppedMove(from, to);
  move.transport = transport;
  return await move.prepare();
}

async function moveOn(from: HostStage, to: HostStage, transport: Transport): Promise<void> {
  const move = await prepared(from, to, transport);
  await move.mirror();
  await move.finish();
  from.domains.unclaim(move.uuid, move.migrationId);
  await writes(to, 20);
}

/** Speaks to a QEMU past the agent, as a person would. */
async function ask<T>(host: HostStage, uuid: string, work: (qmp: QmpClient) => Promise<T>) {
  const { rescueMonitor } = qemuPaths(join(host.settings.directories.run, uuid));
  await using qmp = await QmpClient.connect(rescueMonitor);
  return await work(qmp);
}

/** What a QEMU still has of a way that RAM took. */
async function leftOfWay(host: HostStage, uuid: string) {
  return await ask(host, uuid, async (qmp) => {
    const objects = await qmp.execute('qom-list', { path: '/objects' });
    const parameters = await qmp.execute('query-migrate-parameters');
    const keys = objects.map(({ name }) => name).filter((name) => name.startsWith('drover'));
    return { keys, credentials: parameters['tls-creds'] };
  });
}

describe('a guest', () => {
  it.each([
    ['direct', 'direct'],
    ['direct', 'stream'],
    ['stream', 'direct'],
  ] as const)('moves by %s, and from there by %s', async (first, second) => {
    const { uuid } = (await here.domains.get('web1')).spec;
    await moveOn(here, there, first);
    expect(await leftOfWay(there, uuid)).toEqual({ keys: [], credentials: '' });
    await here.domains.delete('web1', { tombstone: true });
    await moveOn(there, here, second);
    expect(here.problems).toEqual([]);
    expect(there.problems).toEqual([]);
    await here.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
    const ledger = new Ledger(logs.map((log) => log.cut()));
    expect(ledger.describeFaults()).toBe('');
    const path = join(here.pool(), uuid, 'root.raw');
    const content = await readDisk(path, { guest: 'boot-sector', format: 'raw' });
    expect(ledger.lostWrites(content)).toEqual([]);
  });

  it.each([
    ['direct', 'stream'],
    ['stream', 'direct'],
  ] as const)('whose move by %s is given up moves by %s', async (first, second) => {
    const failed = await prepared(here, there, first);
    await (await failed.mirror()).sendRam();
    await failed.ram.sentOnce({ signal });
    await failed.giveRamUp();
    await failed.mirrors[Symbol.asyncDispose]();
    await failed.incoming[Symbol.asyncDispose]();
    here.domains.unclaim(failed.uuid, failed.migrationId);
    expect(await leftOfWay(here, failed.uuid)).toEqual({ keys: [], credentials: '' });
    expect(await there.leftovers()).toEqual([]);
    await moveOn(here, there, second);
    expect(here.problems).toEqual([]);
    expect(there.problems).toEqual([]);
  });
});

/** Somebody at a port, who has said this and stays there. */
async function knock(port: number, words: string): Promise<Socket> {
  const stranger = connect(port, '127.0.0.1', () => stranger.write(words));
  stranger.on('error', () => undefined);
  await new Promise((resolve) => stranger.once('connect', resolve));
  return stranger;
}

describe('the port where RAM is awaited', () => {
  it('takes nothing but the ticket, and holds nobody up', async () => {
    const move = await prepared(here, there, 'direct');
    await move.mirror();
    const { port } = await move.incoming.acceptRam({ signal, transport: 'direct' });
    const strangers = [
      await knock(port, ''),
      await knock(port, 'x'.repeat(44)),
      await knock(port, `${'y'.repeat(43)}\n`),
    ];
    await move.finish();
    for (const stranger of strangers) stranger.destroy();
    await writes(there, 20);
  });

  it('may be answered by somebody who says nothing more: the guest runs on', async () => {
    const move = await prepared(here, there, 'direct');
    await move.mirror();
    const server = await move.incoming.acceptRam({ signal, transport: 'direct' });
    const guests: Socket[] = [];
    const silent = createServer((socket) => {
      guests.push(socket);
      socket.on('data', () => undefined).on('error', () => undefined);
      socket.write('+');
    });
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const ram = await move.domain.sendRam({ ...server, port }, move.limits, { signal });
    // Its QEMU waits for TLS, and answers all the same.
    await writes(here, 20);
    const status = await ask(here, move.uuid, (qmp) => qmp.execute('query-status'));
    expect(status.status).toBe('running');
    await expect(ram.sentOnce({ signal })).rejects.toMatchObject({ reason: 'STALLED' });
    await ram[Symbol.asyncDispose]();
    silent.close();
    // QEMU begins nothing else before its handshake has ended.
    for (const guest of guests) guest.destroy();
    await writes(here, 20);
    expect(await leftOfWay(here, move.uuid)).toEqual({ keys: [PSK_OBJECT], credentials: '' });
    await move.finish();
    await writes(there, 20);
    expect(here.problems).toEqual([]);
  });

  it('is tried again in vain where QEMU has met somebody without the key', async () => {
    const move = await prepared(here, there, 'direct');
    await move.mirror();
    const server = await move.incoming.acceptRam({ signal, transport: 'direct' });
    const loading = move.incoming.loaded({ signal });
    loading.catch(() => undefined);
    const thief = await knock(server.port, `${server.ticket}\n`);
    await new Promise((resolve) => thief.once('data', resolve));
    // It waits for TLS, and answers all the same.
    const asked = await ask(there, move.uuid, (qmp) => qmp.execute('query-status'));
    expect(asked.status).toBe('inmigrate');
    thief.destroy();
    await move.sendRam();
    await expect(move.ram.sentOnce({ signal })).rejects.toMatchObject({ reason: 'RAM_FAILED' });
    await move.ram[Symbol.asyncDispose]();
    await move.finish(2);
    await writes(there, 20);
  });
});

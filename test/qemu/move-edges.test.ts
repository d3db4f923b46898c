import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { PSK_PRIORITY, PskFolder } from '../../src/channel/psk.js';
import type { DiskServerAddress } from '../../src/domain/launch-spec.js';
import type { LoadedGuest } from '../../src/domain/types.js';
import { moveGuest } from '../support/move-guest.js';
import { type Actor, QemuStage, type StageSpec } from '../support/qemu-stage.js';

const MIB = 1024 ** 2;
const limit = { limitMs: 20_000 };
const signal = AbortSignal.timeout(100_000);
const limits = { downtimeLimitMs: 300, maxBandwidth: 0 };

let stage: QemuStage;
afterEach(() => stage[Symbol.asyncDispose]());

async function open(options: StageSpec = {}): Promise<Actor> {
  stage = await QemuStage.open(options);
  const source = await stage.start('s', 'stopped');
  await source.process.qmp.execute('cont');
  await source.serial.waitForWrites(20, limit);
  return source;
}

async function listenOn(port: number): Promise<Server> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port }, resolve);
  });
  return server;
}

test('a thin disk stays thin, and what it holds is counted', async () => {
  const source = await open({
    disks: [
      { id: 'root', sizeBytes: 64 * MIB, cache: 'writethrough' },
      { id: 'data', sizeBytes: 64 * MIB, cache: 'writethrough', format: 'qcow2' },
    ],
    filledBytes: 8 * MIB,
  });
  const launchSpec = await stage.domain(source).launchSpec({ signal });
  expect(launchSpec.disks).toMatchObject([
    { diskId: 'root', sizeBytes: 64 * MIB, mirrored: true },
    { diskId: 'data', sizeBytes: 64 * MIB, mirrored: true },
  ]);
  expect(launchSpec.disks[0]?.allocatedBytes).toBeGreaterThan(8 * MIB);
  let loading: Promise<LoadedGuest> | undefined;
  const twin = await stage.start('d', 'incoming');
  await moveGuest(stage, source, twin, {
    onLoading: (promise) => {
      loading = promise;
    },
  });
  const { allocatedBytes } = (await loading) as LoadedGuest;
  expect(allocatedBytes['root']).toBeGreaterThan(8 * MIB);
  expect(allocatedBytes['root']).toBeLessThan(14 * MIB);
  expect(allocatedBytes['data']).toBeLessThan(6 * MIB);
});

test.each([
  ['stream', 'VMSTATE_INCOMPATIBLE'],
  // Nobody but the two QEMUs sees the bytes: a first failure may as well be the link's.
  ['direct', 'RAM_FAILED'],
] as const)(
  'a twin that is another machine is, by %s, %s, and the guest stays',
  async (transport, reason) => {
    const source = await open();
    const twin = await stage.start('d', 'incoming', { memoryBytes: 96 * MIB });
    let loading: Promise<LoadedGuest> | undefined;
    const moving = moveGuest(stage, source, twin, {
      transport,
      onLoading: (promise) => {
        loading = promise;
      },
    });
    await expect(moving).rejects.toMatchObject({ reason: 'RAM_FAILED', side: 'source' });
    await expect(loading).rejects.toMatchObject({ reason, side: 'destination' });
    await source.serial.waitForWrites(20, limit);
  },
);

test('a disk server opens on the ports that are free, and says so when none is', async () => {
  await using taken = await listenOn(0);
  const { port } = taken.address() as { port: number };
  const source = await open({ ports: [port, port] });
  const launchSpec = await stage.domain(source).launchSpec({ signal });
  const twin = await stage.start('d', 'incoming');
  await using incoming = stage.incoming(twin, launchSpec);
  await expect(incoming.exportDisks({ signal, transport: 'direct' })).rejects.toMatchObject({
    reason: 'NO_PORT',
    facts: { first_port: port, last_port: port },
  });
});

test('only who has the key of the migration gets to an export', async () => {
  const source = await open();
  const { qmp } = source.process;
  const launchSpec = await stage.domain(source).launchSpec({ signal });
  const twin = await stage.start('d', 'incoming');
  await using incoming = stage.incoming(twin, launchSpec);
  const server = await incoming.exportDisks({ signal, transport: 'direct' });
  expect(await incoming.exportDisks({ signal, transport: 'direct' })).toEqual(server);

  const attach = (id: string, tls: object) =>
    qmp.execute('blockdev-add', {
      driver: 'nbd',
      'node-name': id,
      server: { type: 'inet', host: server.address, port: String(server.port) },
      export: server.exports[0]?.exportName as string,
      ...tls,
    });
  const addKey = async (id: string, identity: string, key: Uint8Array) => {
    await using folder = await PskFolder.write(source.directory, { identity, key });
    await qmp.execute('object-add', {
      'qom-type': 'tls-creds-psk',
      id,
      endpoint: 'client',
      dir: folder.path,
      username: identity,
      priority: PSK_PRIORITY,
    });
    return { 'tls-creds': id };
  };
  await expect(attach('plain', {})).rejects.toThrow();
  const wrong = await addKey('wrong', server.pskIdentity, randomBytes(32));
  await expect(attach('wrong-key', wrong)).rejects.toThrow();
  const right = await addKey('right', server.pskIdentity, server.psk);
  await attach('right-key', right);
});

test('mirrors that run already are found, and those of an earlier try are replaced', async () => {
  let started = 0;
  const source = await open({
    transcript: (_name, direction, message) => {
      const { execute } = message as { execute?: string };
      if (direction === 'sent' && execute === 'blockdev-mirror') started++;
    },
  });
  const domain = stage.domain(source);
  const { disks } = await domain.launchSpec({ signal });
  const exportTo = async (name: string): Promise<DiskServerAddress> => {
    const twin = await stage.start(name, 'incoming');
    const incoming = stage.incoming(twin, await domain.launchSpec({ signal }));
    return await incoming.exportDisks({ signal, transport: 'direct' });
  };
  const first = await exportTo('d1');
  const mirrors = await domain.mirror(disks, first, limits, { signal, fresh: false });
  await mirrors.ready({ signal });
  const again = await domain.mirror(disks, first, limits, { signal, fresh: false });
  await again.ready({ signal });
  await again.activate({ signal });
  expect(started).toBe(1);
  expect(await again.progress()).toMatchObject([
    { diskId: 'root', ready: true, totalBytes: expect.any(Number) },
  ]);

  const other = await domain.mirror(disks, await exportTo('d2'), limits, { signal, fresh: false });
  await other.ready({ signal });
  expect(started).toBe(2);
  expect(await source.process.qmp.execute('query-jobs')).toHaveLength(1);
  await other[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  expect(await source.process.qmp.execute('query-jobs')).toEqual([]);
  await source.serial.waitForWrites(20, limit);
});

test('the bandwidth is what was asked for, shared by the mirrors; without a limit it is no default', async () => {
  const source = await open({
    disks: [
      { id: 'root', sizeBytes: 8 * MIB, cache: 'writethrough' },
      { id: 'data', sizeBytes: 8 * MIB, cache: 'writethrough' },
    ],
  });
  const { qmp } = source.process;
  const seen: unknown[] = [];
  const parameters = async () => {
    const { 'max-bandwidth': bandwidth } = await qmp.execute('query-migrate-parameters');
    seen.push(bandwidth);
    throw new Error('Seen.');
  };
  const speeds = async () => {
    // One that is ready takes what it needs, and the other one has its share then.
    const jobs = await qmp.execute('query-block-jobs');
    const left = jobs.filter(({ ready }) => !ready);
    const fair = left.length === 2 ? 32 * MIB : 64 * MIB;
    seen.push(left.every(({ speed }) => speed === fair) ? 'shared' : left[0]?.speed);
  };
  for (const [name, bandwidth] of [
    ['d1', 64 * MIB],
    ['d2', 0],
  ] as const) {
    const twin = await stage.start(name, 'incoming');
    const moving = moveGuest(stage, source, twin, {
      mirrorBandwidth: bandwidth,
      ramBandwidth: bandwidth,
      mirroring: speeds,
      paused: parameters,
    });
    await expect(moving).rejects.toThrow('Seen.');
  }
  expect(seen[0]).toBe('shared');
  expect(seen[1]).toBe(64 * MIB);
  // Where both were ready by then there was nothing left to share.
  expect([0, 'shared']).toContain(seen[2]);
  expect(seen[3]).toBe(2 ** 40);
});

test('a device that somebody plugged in stands in the way, by name', async () => {
  const source = await open({ machine: 'pc' });
  const plug = { 'command-line': 'device_add virtio-balloon-pci,id=stranger' };
  expect(await source.process.qmp.execute('human-monitor-command', plug)).toBe('');
  await expect(stage.domain(source).launchSpec({ signal })).rejects.toMatchObject({
    reason: 'QEMU_DEVICE_UNKNOWN',
    violations: [{ subject: 'stranger' }],
  });
});

test.each(['mirroring', 'ready', 'precopy', 'paused', 'settled', 'loaded'] as const)(
  'when the source QEMU is killed in the moment "%s", that is said and nothing hangs',
  async (moment) => {
    const source = await open({ filledBytes: 8 * MIB });
    const twin = await stage.start('d', 'incoming');
    const reason = await moveGuest(stage, source, twin, {
      mirrorBandwidth: moment === 'mirroring' ? MIB : 0,
      ramBandwidth: moment === 'precopy' ? MIB / 4 : 0,
      [moment]: async () => {
        await source.process.kill();
        // At the last moment nobody needs the source any more.
        if (moment === 'loaded') throw new Error('Gone.');
      },
    }).catch((error: unknown) => error);
    if (moment === 'loaded') expect(reason).toMatchObject({ message: 'Gone.' });
    else expect(reason).toMatchObject({ reason: 'SOURCE_QEMU_DIED', side: 'source' });
    expect(twin.serial.lines).toHaveLength(0);
    expect(stage.problems).toEqual([]);
  },
);

test.each([
  ['precopy', 'Error: Given up.'],
  ['paused', 'STALLED'],
] as const)(
  'a destination QEMU that stands still in the moment "%s" cannot keep the guest from running here',
  async (moment, reason) => {
    const source = await open();
    const twin = await stage.start('d', 'incoming');
    const { pid } = twin.process.record.process;
    const error = await moveGuest(stage, source, twin, {
      [moment]: async () => {
        process.kill(pid, 'SIGSTOP');
        if (moment === 'paused') return;
        // The guest's write waits for its mirror now, QEMU waits for the write, and its monitor for
        // QEMU.
        await new Promise((resolve) => setTimeout(resolve, 500));
        throw new Error('Given up.');
      },
    }).catch((thrown: unknown) => thrown);
    expect((error as { reason?: string }).reason ?? String(error)).toBe(reason);
    await source.serial.waitForWrites(20, limit);
    expect(await source.process.qmp.execute('query-jobs')).toEqual([]);
    const last = await stage.start('last', 'incoming');
    await moveGuest(stage, source, last);
    await last.serial.waitForWrites(20, limit);
    expect(stage.problems).toEqual([]);
  },
);

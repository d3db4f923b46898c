import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type { IncomingRequest } from '../../src/domain/types.js';
import { ProcessError } from '../../src/process/errors.js';
import { deferred } from '../../src/util/deferred.js';
import { FakeHost, fakeSpec as spec } from '../support/fake-host.js';
import { refuse } from '../support/fake-qemu.js';
import type { HostStageParts } from '../support/host-stage.js';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const signal = new AbortController().signal;
const force = { force: true, timeLimitMs: 1 };

describe("a host's domains", () => {
  let here: FakeHost;
  let there: FakeHost;
  const others: FakeHost[] = [];

  const request = (launchSpec: LaunchSpec, changes: Partial<IncomingRequest> = {}) => ({
    launchSpec,
    migrationId: 'm1',
    attempt: 1,
    epoch: 1,
    generation: 2,
    sourceHost: 'here',
    ...changes,
  });
  const open = async (parts: HostStageParts) => {
    const host = await new FakeHost(parts).open();
    others.push(host);
    return host;
  };

  beforeEach(async () => {
    here = await new FakeHost().open();
    there = await new FakeHost({ host: 'there' }).open();
  });
  afterEach(async () => {
    for (const host of [here, there, ...others.splice(0)]) await host.close();
  });

  it('cannot be two of one name or UUID, even when both are asked for at once', async () => {
    const results = await Promise.allSettled([
      here.domains.create(spec, { signal }),
      here.domains.create(spec, { signal }),
    ]);
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    const { spec: fixed } = await here.domains.get('web1');
    await expect(
      here.domains.create({ ...spec, uuid: fixed.uuid }, { signal }),
    ).rejects.toMatchObject({
      reason: 'DOMAIN_EXISTS',
      violations: [{ subject: 'uuid' }, { subject: 'name' }],
    });
    expect(await here.domains.list()).toHaveLength(1);
  });

  it('are connected to nothing but what their host offers', async () => {
    const closed = await new FakeHost({ networks: { bridges: ['br1'], user: false } }).open();
    const nics = [
      { id: 'a', type: 'tap', bridge: 'br0' },
      { id: 'b', type: 'tap', bridge: 'br1' },
      { id: 'c', type: 'user' },
    ];
    const refused = closed.domains.create({ ...spec, nics }, { signal });
    await expect(refused).rejects.toMatchObject({
      violations: [
        { reason: 'NETWORK_NOT_OFFERED', subject: 'nics[0].bridge' },
        { reason: 'BRIDGE_MISSING', subject: 'nics[1].bridge' },
        { reason: 'NETWORK_NOT_OFFERED', subject: 'nics[2].type' },
      ],
    });
    expect(closed.taps.size).toBe(0);
    await closed.close();
  });

  it('get taps of their own, which go with QEMU', async () => {
    const nics = [
      { id: 'a', type: 'tap', bridge: 'br0' },
      { id: 'b', type: 'tap', bridge: 'br0' },
    ];
    await here.domains.create({ ...spec, nics }, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    expect(here.taps.size).toBe(2);
    await here.domains.stop('web1', force, { signal });
    expect(here.taps.size).toBe(0);

    // The second tap of this one cannot be made: the first one must not stay.
    here.taps.add('other');
    await expect(here.domains.start('web1', { paused: false }, { signal })).rejects.toMatchObject({
      message: expect.stringContaining('No more taps'),
    });
    expect([...here.taps]).toEqual(['other']);
    expect((await here.domains.get('web1')).state).toBe('STOPPED');
  });

  it('are promised memory that no other gets', async () => {
    here.freeBytes = GIB;
    for (const name of ['one', 'two']) {
      await here.domains.create({ ...spec, name, memoryBytes: 600 * MIB }, { signal });
    }
    await here.domains.start('one', { paused: true }, { signal });
    await expect(here.domains.start('two', { paused: true }, { signal })).rejects.toMatchObject({
      reason: 'NO_MEMORY',
      facts: { required_bytes: 600 * MIB, available_bytes: 424 * MIB },
    });
    await here.domains.stop('one', force, { signal });
    await here.domains.start('two', { paused: true }, { signal });
  });

  it('are stopped when QEMU ends by itself, and leave nothing running', async () => {
    await here.domains.create(spec, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    here.launcher.alive[0]?.exit(0);
    await expect.poll(async () => (await here.domains.get('web1')).state).toBe('STOPPED');
    await expect.poll(() => here.stage.leftovers()).toHaveLength(2);
  });

  it('do one thing at a time, except that force overtakes patience', async () => {
    await here.domains.create(spec, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    const powerDown = deferred();
    here.launcher.faults.add({
      at: { command: 'system_powerdown' },
      action: () => powerDown.promise,
    });
    const patience = { force: false, timeLimitMs: 10_000 };
    const patient = here.domains.stop('web1', patience, { signal });
    const busy = { reason: 'DOMAIN_BUSY' };
    await expect(here.domains.start('web1', { paused: false }, { signal })).rejects.toMatchObject(
      busy,
    );
    expect(() => here.domains.claim('web1', 'm1')).toThrow(expect.objectContaining(busy));
    const impatient = here.domains.stop('web1', force, { signal });
    powerDown.resolve();
    await Promise.all([impatient, patient]);
    expect((await here.domains.get('web1')).state).toBe('STOPPED');
  });

  it('are claimed by one migration, and cannot be stopped or deleted meanwhile', async () => {
    await here.domains.create(spec, { signal });
    expect(() => here.domains.claim('web1', 'm1')).toThrow(
      expect.objectContaining({ reason: 'DOMAIN_NOT_RUNNING', facts: { owner_host: 'here' } }),
    );
    await here.domains.start('web1', { paused: false }, { signal });
    const { uuid } = here.domains.claim('web1', 'm1');
    expect(() => here.domains.claim(uuid.toUpperCase(), 'm2')).toThrow(
      expect.objectContaining({ reason: 'ALREADY_MIGRATING', facts: { migration_id: 'm1' } }),
    );
    for (const refused of [
      () => here.domains.stop('web1', force, { signal }),
      () => here.domains.start('web1', { paused: false }, { signal }),
      () => here.domains.delete('web1', { tombstone: false }),
    ]) {
      await expect(refused()).rejects.toMatchObject({ facts: { migration_id: 'm1' } });
    }
    expect((await here.domains.get('web1')).migrationId).toBe('m1');
    here.domains.unclaim(uuid, 'm2');
    expect((await here.domains.get('web1')).migrationId).toBe('m1');
    here.domains.unclaim(uuid, 'm1');
    await here.domains.stop('web1', force, { signal });
  });

  it('are not touched when QEMU lives and does not answer', async () => {
    await here.domains.create(spec, { signal });
    const { qemuPid } = await here.domains.start('web1', { paused: false }, { signal });
    here.launcher.faults.add({
      at: { command: 'query-uuid' },
      action: (qemu) => qemu.dropMonitors(),
    });
    const domains = await here.stage.reopen();
    expect(await domains.get('web1')).toMatchObject({ state: 'RUNNING', qemuPid });
    for (const refused of [
      () => domains.start('web1', { paused: false }, { signal }),
      () => domains.stop('web1', { force: false, timeLimitMs: 1 }, { signal }),
      () => domains.delete('web1', { tombstone: false }),
    ]) {
      await expect(refused()).rejects.toMatchObject({ reason: 'QEMU_ERROR' });
    }
    await domains.stop('web1', force, { signal });
    expect(here.launcher.alive).toEqual([]);
    await domains.start('web1', { paused: false }, { signal });
  });

  it('that are in doubt are not touched, and are shown so unless their guest runs', async () => {
    const { spec: fixed } = await here.domains.create(spec, { signal });
    await here.domains.start('web1', { paused: true }, { signal });
    const domains = await here.stage.reopen();
    const message = 'web1 was given up to there, which has not answered.';
    const facts = { destination_host: 'there' };
    domains.doubt(fixed.uuid, { reason: 'OWNERSHIP_UNKNOWN', message, hint: 'Ask there.', facts });
    expect((await domains.get('web1')).state).toBe('IN_DOUBT');
    for (const refused of [
      () => domains.start('web1', { paused: false }, { signal }),
      () => domains.stop('web1', force, { signal }),
      () => domains.delete('web1', { tombstone: false }),
    ]) {
      const hint = 'Ask there.';
      await expect(refused()).rejects.toMatchObject({ reason: 'OWNERSHIP_UNKNOWN', hint, facts });
    }
    expect(() => domains.claim('web1', 'm2')).toThrow(message);
    expect(here.launcher.alive).toHaveLength(1);
    domains.doubt(fixed.uuid, undefined);
    await domains.start('web1', { paused: false }, { signal });
    domains.doubt(fixed.uuid, { reason: 'OWNERSHIP_UNKNOWN', message });
    expect((await domains.get('web1')).state).toBe('RUNNING');
    await domains.standDown(fixed.uuid, { epoch: 1, generation: 1 });
    expect(here.launcher.alive).toMatchObject([{ runState: 'paused' }]);
    expect((await domains.get('web1')).state).toBe('IN_DOUBT');
  });

  it('are stood down by force where QEMU does not pause its guest', async () => {
    const { spec: fixed } = await here.domains.create(spec, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    here.launcher.faults.add({ at: { command: 'stop' }, action: refuse('Not today.') });
    await here.domains.standDown(fixed.uuid, { epoch: 1, generation: 1 });
    expect(here.launcher.alive).toEqual([]);
    expect(existsSync(join(here.stage.pool(), fixed.uuid))).toBe(true);
    await here.domains.standDown(fixed.uuid, { epoch: 1, generation: 1 });
  });

  it('keep the epoch that a person gave them', async () => {
    const { spec: fixed } = await here.domains.create(spec, { signal });
    expect(await here.domains.get('web1')).toMatchObject({ epoch: 1, generation: 1 });
    await here.domains.raiseEpoch(fixed.uuid, 3);
    await here.domains.raiseEpoch(fixed.uuid, 2);
    expect(await (await here.stage.reopen()).get('web1')).toMatchObject({ epoch: 3 });
  });

  it('that were given away are retired by the next life of the agent', async () => {
    const { spec: fixed } = await here.domains.create(spec, { signal });
    await here.domains.start('web1', { paused: false }, { signal });
    const domains = await here.stage.reopen();
    const leaving = domains.recoverOutgoing(fixed.uuid, 'm1');
    await leaving?.retire('there');
    await leaving?.retire('there');
    expect(domains.recoverOutgoing(fixed.uuid, 'm1')).toBeUndefined();
    expect(await domains.get('web1')).toMatchObject({ state: 'MOVED', ownerHost: 'there' });
    expect(here.launcher.alive).toEqual([]);
    expect(await readdir(join(here.stage.pool(), '.tombstones'))).toHaveLength(1);
  });

  it('arrive, and are here over a restart', async () => {
    const launchSpec = await here.launchSpec();
    const incoming = await there.domains.startIncoming(request(launchSpec), { signal });
    expect(() => there.domains.claim('web1', 'm2')).toThrow(
      expect.objectContaining({ reason: 'DOMAIN_NOT_RUNNING' }),
    );
    await incoming.arrive();
    await incoming[Symbol.asyncDispose]();
    const arrived = { state: 'PAUSED', ownerHost: 'there', generation: 2 };
    expect(await there.domains.get('web1')).toMatchObject(arrived);
    expect(await (await there.stage.reopen()).get('web1')).toMatchObject(arrived);
    expect(there.stage.problems).toEqual([]);
  });

  it('that are given up on their way in are as if they had never come', async () => {
    const launchSpec = await here.launchSpec();
    const incoming = await there.domains.startIncoming(request(launchSpec), { signal });
    await incoming.kill();
    expect(incoming.alive).toBe(false);
    await incoming[Symbol.asyncDispose]();
    expect(await there.domains.list()).toEqual([]);
    expect(await there.stage.leftovers()).toEqual([]);
    expect(await (await there.stage.reopen()).list()).toEqual([]);
    expect(there.launcher.alive).toEqual([]);
  });

  it('come back to the host they left, and their tombstone goes', async () => {
    const launchSpec = await here.launchSpec();
    const { uuid } = launchSpec.spec;
    const domain = here.domains.claim('web1', 'm1');
    await domain.retire('there');
    here.domains.unclaim(uuid, 'm1');
    const tombstones = () => readdir(join(here.stage.pool(), '.tombstones'));
    expect(await tombstones()).toEqual([`${uuid}-g1`]);

    // One of the generation that this host knows already is an old copy.
    await expect(
      here.domains.startIncoming(request(launchSpec, { sourceHost: 'there' }), { signal }),
    ).rejects.toMatchObject({ reason: 'DOMAIN_EXISTS' });
    const back = request(launchSpec, { generation: 3, sourceHost: 'there' });
    const given = await here.domains.startIncoming(back, { signal });
    await given[Symbol.asyncDispose]();
    expect(await here.domains.get('web1')).toMatchObject({ state: 'MOVED', ownerHost: 'there' });
    const kept = await here.domains.startIncoming(back, { signal });
    await kept.arrive();
    await expect.poll(tombstones).toEqual([]);
    expect(await here.domains.get('web1')).toMatchObject({ ownerHost: 'here', generation: 3 });
  });

  it('are refused with every reason at once, and nothing is made', async () => {
    const launchSpec = await here.launchSpec();
    there.freeBytes = MIB;
    const [disk] = launchSpec.disks;
    const huge = { ...launchSpec, disks: [{ ...disk!, allocatedBytes: 1024 ** 5 }] };
    await expect(there.domains.startIncoming(request(huge), { signal })).rejects.toMatchObject({
      reason: 'NO_MEMORY',
      side: 'destination',
      facts: { required_bytes: 64 * MIB },
      violations: [{ reason: 'NO_MEMORY' }, { reason: 'DISK_NO_SPACE' }],
    });
    there.freeBytes = 32 * GIB;
    const hostile = {
      ...launchSpec,
      spec: {
        ...launchSpec.spec,
        machine: 'pc-q35-99.0',
        nics: [{ id: 'n', type: 'user', bridge: '', mac: '', model: 'e1000' }],
      },
      cpuModel: 'base,kvm=on',
      pciSlots: { 'disk-root': 31 },
      disks: [{ ...disk!, sizeBytes: 12345 }],
    } as LaunchSpec;
    const refused = there.domains.startIncoming(request(hostile), { signal });
    await expect(refused).rejects.toMatchObject({
      violations: [
        { reason: 'REQUEST_INVALID', subject: 'cpu' },
        { reason: 'REQUEST_INVALID', subject: 'nics[0].mac' },
        { reason: 'REQUEST_INVALID', subject: 'pciSlots' },
        { reason: 'REQUEST_INVALID', subject: 'pciSlots' },
        { reason: 'DISK_SIZE_MISMATCH', subject: 'disks[0]' },
        { reason: 'MACHINE_TYPE_UNKNOWN', subject: 'machine' },
        { reason: 'CPU_FEATURE_MISSING', subject: 'cpu' },
      ],
    });
    const traversal = { ...launchSpec, spec: { ...launchSpec.spec, uuid: '../../etc' } };
    await expect(there.domains.startIncoming(request(traversal), { signal })).rejects.toMatchObject(
      { reason: 'SPEC_INVALID' },
    );
    expect(await there.stage.leftovers()).toEqual([]);
    expect(await there.domains.list()).toEqual([]);
    expect(there.launcher.qemus).toEqual([]);
  });

  it('leave nothing when their QEMU does not start', async () => {
    const launchSpec = await here.launchSpec();
    const launch = there.launcher.launch.bind(there.launcher);
    there.launcher.launch = async () => {
      throw new ProcessError('QEMU could not be started.', { program: 'qemu' });
    };
    await expect(
      there.domains.startIncoming(request(launchSpec), { signal }),
    ).rejects.toMatchObject({ reason: 'QEMU_START_FAILED', side: 'destination' });
    there.launcher.launch = launch;
    expect(await there.stage.leftovers()).toEqual([]);
    expect(await there.domains.list()).toEqual([]);
    // The next attempt finds the way free.
    const incoming = await there.domains.startIncoming(request(launchSpec), { signal });
    await incoming[Symbol.asyncDispose]();
  });

  it('do not touch images that they did not make', async () => {
    const launchSpec = await here.launchSpec();
    const folder = join(there.stage.pool(), launchSpec.spec.uuid);
    await writeFile(folder, 'precious');
    await expect(
      there.domains.startIncoming(request(launchSpec), { signal }),
    ).rejects.toMatchObject({ reason: 'DOMAIN_EXISTS' });
    expect(existsSync(folder)).toBe(true);
  });

  it('on shared pools keep their images whatever becomes of the migration', async () => {
    const path = await mkdtemp(join(tmpdir(), 'drover-shared-'));
    try {
      const pools = { default: {}, san: { path, shared: true } };
      const [source, destination] = [await open({ pools }), await open({ host: 'there', pools })];
      const disks = [{ id: 'root', pool: 'san', sizeBytes: MIB, shared: true }];
      const launchSpec = await source.launchSpec({ disks });
      expect(launchSpec.disks[0]?.mirrored).toBe(false);
      const image = join(path, launchSpec.spec.uuid, 'root.raw');
      const incoming = await destination.domains.startIncoming(request(launchSpec), { signal });
      await incoming[Symbol.asyncDispose]();
      expect(existsSync(image)).toBe(true);
      await source.domains.claim('web1', 'm1').retire('there');
      expect(existsSync(image)).toBe(true);
      await source.domains.delete('web1', { tombstone: true });
      expect(existsSync(image)).toBe(true);
      // A host that does not see the image cannot take the domain.
      await expect(
        there.domains.startIncoming(request(launchSpec), { signal }),
      ).rejects.toMatchObject({ reason: 'DISK_TARGET_MISSING' });
      await rm(image);
      await expect(
        destination.domains.startIncoming(request(launchSpec), { signal }),
      ).rejects.toMatchObject({ reason: 'MEDIA_MISSING' });
    } finally {
      await rm(path, { recursive: true });
    }
  });

  it('with catalogue images come only to hosts with the same ones', async () => {
    const images = (host: FakeHost) => join(host.stage.pool(), 'images');
    await writeFile(join(images(here), 'tools.iso'), Buffer.alloc(1024, 1));
    const disks = [{ id: 'cd', image: 'tools.iso', readOnly: true }];
    const launchSpec = await here.launchSpec({ disks });
    const take = () => there.domains.startIncoming(request(launchSpec), { signal });
    await expect(take()).rejects.toMatchObject({ reason: 'MEDIA_MISSING' });
    await writeFile(join(images(there), 'tools.iso'), Buffer.alloc(1024, 2));
    await expect(take()).rejects.toMatchObject({
      reason: 'MEDIA_MISSING',
      message: expect.stringContaining('other contents'),
    });
    await writeFile(join(images(there), 'tools.iso'), Buffer.alloc(1024, 1));
    const incoming = await take();
    await incoming[Symbol.asyncDispose]();
    expect(existsSync(join(images(there), 'tools.iso'))).toBe(true);
  });

  it('that only name an image, and do not know what is in it, do not get it', async () => {
    for (const host of [here, there]) {
      await writeFile(join(host.stage.pool(), 'images', 'secret.img'), Buffer.alloc(1024, 1));
    }
    const disks = [{ id: 'cd', image: 'secret.img', readOnly: true }];
    const launchSpec = await here.launchSpec({ disks });
    const unknown = launchSpec.disks.map((disk) => ({ ...disk, imageSha256: '' }));
    const take = (changed: LaunchSpec) => there.domains.startIncoming(request(changed), { signal });
    await expect(take({ ...launchSpec, disks: unknown })).rejects.toMatchObject({
      violations: expect.arrayContaining([
        expect.objectContaining({ reason: 'REQUEST_INVALID', subject: 'disks[0]' }),
      ]),
    });
    // Calling it shared, where the pool is not, is no way around.
    const [disk] = launchSpec.spec.disks;
    const spec = { ...launchSpec.spec, disks: [{ ...disk!, shared: true }] };
    await expect(take({ ...launchSpec, spec, disks: unknown })).rejects.toMatchObject({
      reason: 'MEDIA_MISSING',
    });
    await (await take(launchSpec))[Symbol.asyncDispose]();
  });

  it('of a CPU model that QEMU does not list are not even tried', async () => {
    const launchSpec = await here.launchSpec();
    const odd = { ...launchSpec, cpuModel: 'help' };
    await expect(there.domains.startIncoming(request(odd), { signal })).rejects.toMatchObject({
      violations: [{ reason: 'CPU_FEATURE_MISSING', subject: 'cpu' }],
    });
    expect(there.launcher.qemus).toEqual([]);
  });

  it('boot a kernel of the catalogue, which their destination must have as well', async () => {
    const kernel = async (host: string, contents: string) => {
      const folder = await mkdtemp(join(tmpdir(), 'drover-kernel-'));
      folders.push(folder);
      const [path, initrdPath] = [join(folder, 'vmlinuz'), join(folder, 'initrd')];
      await writeFile(path, contents);
      await writeFile(initrdPath, 'initrd');
      return open({ host, kernels: [{ name: 'linux', path, initrdPath, arguments: 'quiet' }] });
    };
    const folders: string[] = [];
    try {
      const source = await kernel('here', 'kernel');
      const changes = { kernel: 'linux', kernelArguments: 'console=ttyS0' };
      const launchSpec = await source.launchSpec(changes);
      expect(launchSpec.spec.kernelArguments).toBe('quiet console=ttyS0');
      expect(launchSpec.kernelSha256).toMatch(/^[0-9a-f]{64}\+[0-9a-f]{64}$/);
      const take = (host: FakeHost) => host.domains.startIncoming(request(launchSpec), { signal });
      const missing = { reason: 'MEDIA_MISSING', violations: [{ subject: 'kernel' }] };
      await expect(take(there)).rejects.toMatchObject(missing);
      await expect(take(await kernel('other', 'KERNEL'))).rejects.toMatchObject(missing);
      await (await take(await kernel('same', 'kernel')))[Symbol.asyncDispose]();
    } finally {
      for (const folder of folders) await rm(folder, { recursive: true });
    }
  });

  it('are listed with a pool that has gone, and the host is described with the others', async () => {
    const { domains, stage } = await open({ pools: { default: {}, other: {} } });
    const { spec: made } = await domains.create(spec, { signal });
    await rm(stage.pool('other'), { recursive: true });
    for (const _ of [1, 2]) {
      expect(await domains.list()).toMatchObject([{ spec: { name: 'web1' }, tombstoneBytes: 0 }]);
      const { pools } = await domains.facts();
      expect(pools).toMatchObject([
        { name: 'default', sizeBytes: expect.any(Number) },
        { name: 'other', shared: false, sizeBytes: 0, availableBytes: 0 },
      ]);
      expect(pools[0]?.availableBytes).toBeGreaterThan(0);
    }
    expect(stage.problems).toEqual([
      expect.stringMatching(/^a pool cannot be used: .* of the pool other is not/),
    ]);
    // What cannot be looked at is not said to hold nothing.
    await expect(domains.delete(made.uuid, { tombstone: true })).rejects.toMatchObject({
      reason: 'DISK_TARGET_MISSING',
    });
    await domains.create({ ...spec, name: 'web2' }, { signal });
    const elsewhere = {
      ...spec,
      name: 'web3',
      disks: [{ id: 'r', pool: 'other', sizeBytes: MIB }],
    };
    await expect(domains.create(elsewhere, { signal })).rejects.toMatchObject({
      reason: 'DISK_TARGET_MISSING',
    });
  });
});

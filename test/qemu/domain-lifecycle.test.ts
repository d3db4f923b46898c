import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findOnPath } from '../../src/process/binary.js';
import { readStartTime } from '../../src/process/proc.js';
import { HostStage } from '../support/host-stage.js';

const MIB = 1024 ** 2;
const signal = AbortSignal.timeout(100_000);

const small = { memoryBytes: 32 * MIB, accelerator: 'tcg', serial: { type: 'file' } };

describe('a domain on real QEMU', () => {
  let stage: HostStage;

  beforeAll(async () => {
    stage = await HostStage.open();
  });
  afterAll(async () => {
    await stage[Symbol.asyncDispose]();
  });

  it('is created with everything fixed, and boots the image of the catalogue', async () => {
    writeFileSync(
      join(stage.pool(), 'images', 'boot.raw'),
      Buffer.concat([readFileSync('test/guest/boot-sector.bin'), Buffer.alloc(MIB)]),
    );
    const { spec, state, generation } = await stage.domains.create(
      {
        name: 'web1',
        ...small,
        disks: [{ id: 'root', image: 'boot.raw', sizeBytes: 16 * MIB, cache: 'writethrough' }],
        nics: [{ id: 'lan' }],
        rng: true,
        balloon: true,
      },
      { signal },
    );
    expect(state).toBe('STOPPED');
    expect(generation).toBe(1);
    expect(spec.uuid).toMatch(/^[0-9a-f-]{36}$/);
    expect(spec.machine).toMatch(/^pc-q35-\d/);
    expect(spec.nics[0]?.mac).toMatch(/^52:54:00:/);
    expect(spec.disks[0]?.sizeBytes).toBe(16 * MIB);

    const started = await stage.domains.start('web1', { paused: false }, { signal });
    expect(started.state).toBe('RUNNING');
    expect(started.qemuPid).toBeGreaterThan(0);
    // The guest prints a line for each block that is on the disk.
    await expect.poll(() => readFileSync(started.serialPath, 'latin1').length).toBeGreaterThan(50);
    expect(await stage.domains.start('web1', { paused: false }, { signal })).toEqual(started);
  });

  it('is found again by the next life of the manager', async () => {
    const before = await stage.domains.get('web1');
    const domains = await stage.reopen();
    const after = await domains.get('web1');
    expect(after).toEqual(before);
    expect(after.state).toBe('RUNNING');
    expect(stage.problems).toEqual([]);
  });

  it('is not stopped by a guest that does not listen, and is by force', async () => {
    const patient = stage.domains.stop('web1', { force: false, timeLimitMs: 300 }, { signal });
    await expect(patient).rejects.toMatchObject({ reason: 'STALLED' });
    expect((await stage.domains.get('web1')).state).toBe('RUNNING');
    await expect(stage.domains.delete('web1', { tombstone: false })).rejects.toMatchObject({
      reason: 'DOMAIN_BUSY',
    });
    const stopped = await stage.domains.stop('web1', { force: true, timeLimitMs: 1 }, { signal });
    expect(stopped).toMatchObject({ state: 'STOPPED', qemuPid: 0 });
    expect(await readdir(stage.settings.directories.run)).toEqual([]);
  });

  it('waits when it is started paused', async () => {
    const paused = await stage.domains.start('web1', { paused: true }, { signal });
    expect(paused.state).toBe('PAUSED');
    await expect(
      stage.domains.stop('web1', { force: false, timeLimitMs: 300 }, { signal }),
    ).rejects.toMatchObject({ reason: 'DOMAIN_NOT_RUNNING' });
    const resumed = await stage.domains.start('web1', { paused: false }, { signal });
    expect(resumed).toMatchObject({ state: 'RUNNING', qemuPid: paused.qemuPid });
    process.kill(paused.qemuPid, 'SIGKILL');
    await expect.poll(async () => (await stage.domains.get('web1')).state).toBe('STOPPED');
  });

  it('leaves nothing when it is deleted', async () => {
    await stage.domains.delete('web1', { tombstone: false });
    await expect(stage.domains.get('web1')).rejects.toMatchObject({ reason: 'DOMAIN_NOT_FOUND' });
    expect(await stage.leftovers()).toEqual([]);
  });

  it('starts with disks on every bus and in every format and cache mode', async () => {
    const caches = ['none', 'writeback', 'writethrough', 'directsync'];
    const disk = (id: string, bus: string, index: number) => ({
      id,
      bus,
      sizeBytes: 2 * MIB,
      format: index % 2 === 0 ? 'raw' : 'qcow2',
      cache: caches[index % 4],
      discard: index % 3 !== 0,
    });
    const buses = ['virtio-blk', 'virtio-scsi', 'ide'];
    const disks = buses.flatMap((bus, group) =>
      [0, 1, 2, 3].map((index) => disk(`${bus}-${index}`, bus, index + group)),
    );
    execFileSync('qemu-img', [
      ...['create', '-q', '-f', 'qcow2', join(stage.pool(), 'images', 'tools.qcow2'), '1M'],
    ]);
    const readOnly = ['virtio-blk', 'virtio-scsi'].map((bus) => ({
      id: `${bus}-ro`,
      bus,
      image: 'tools.qcow2',
      readOnly: true,
    }));
    const spec = {
      name: 'all-buses',
      ...small,
      machine: 'pc',
      cpu: 'max',
      serial: { type: 'socket' },
      nics: [{ id: 'old', model: 'e1000' }],
      disks: [...disks, ...readOnly],
    };
    const { spec: fixed } = await stage.domains.create(spec, { signal });
    expect(fixed.disks.at(-1)?.sizeBytes).toBe(MIB);
    const { state, serialPath } = await stage.domains.start(
      'all-buses',
      { paused: false },
      { signal },
    );
    expect(state).toBe('RUNNING');
    expect((await stat(serialPath)).isSocket()).toBe(true);
    const claimed = stage.domains.claim('all-buses', 'm1');
    const { disks: reported } = await claimed.launchSpec({ signal });
    expect(reported).toHaveLength(14);
    expect(reported.filter(({ mirrored }) => mirrored)).toHaveLength(12);
    await expect(
      stage.domains.stop('all-buses', { force: true, timeLimitMs: 1 }, { signal }),
    ).rejects.toMatchObject({ reason: 'DOMAIN_BUSY', facts: { migration_id: 'm1' } });
    stage.domains.unclaim(fixed.uuid, 'm1');
    await stage.domains.stop('all-buses', { force: true, timeLimitMs: 1 }, { signal });
    await stage.domains.delete('all-buses', { tombstone: false });
  });

  it('becomes a tombstone when it moves away, and can be brought back to nothing', async () => {
    const spec = {
      name: 'leaver',
      ...small,
      disks: [{ id: 'a', sizeBytes: MIB, cache: 'writeback' }],
    };
    const { spec: fixed } = await stage.domains.create(spec, { signal });
    await stage.domains.start('leaver', { paused: false }, { signal });
    const domain = stage.domains.claim('leaver', 'm1');
    await domain.retire('there');
    await domain.retire('there');
    stage.domains.unclaim(fixed.uuid, 'm1');
    expect(await stage.domains.get('leaver')).toMatchObject({
      state: 'MOVED',
      ownerHost: 'there',
      qemuPid: 0,
      generation: 2,
    });
    expect(await readdir(join(stage.pool(), '.tombstones'))).toEqual([`${fixed.uuid}-g1`]);
    for (const refused of [
      () => stage.domains.start('leaver', { paused: false }, { signal }),
      () => stage.domains.delete('leaver', { tombstone: false }),
    ]) {
      await expect(refused()).rejects.toMatchObject({
        reason: 'DOMAIN_MOVED',
        facts: { owner_host: 'there' },
      });
    }
    await (await stage.reopen()).delete('leaver', { tombstone: true });
    expect(await stage.domains.list()).toEqual([]);
    expect(await stage.leftovers()).toEqual([]);
    expect(await readdir(join(stage.pool(), '.tombstones'))).toEqual([]);
  });

  it('is taken in from a launch spec, and leaves nothing when it does not come', async () => {
    const spec = {
      name: 'guest',
      ...small,
      disks: [{ id: 'a', sizeBytes: 3 * MIB, format: 'qcow2' }],
    };
    const { spec: fixed } = await stage.domains.create(spec, { signal });
    await stage.domains.start('guest', { paused: true }, { signal });
    const launchSpec = await stage.domains.claim('guest', 'm1').launchSpec({ signal });
    await using other = await HostStage.open({ host: 'there' });
    const request = {
      launchSpec,
      migrationId: 'm1',
      attempt: 1,
      epoch: 1,
      generation: 2,
      sourceHost: 'here',
    };
    const incoming = await other.domains.startIncoming(request, { signal });
    const image = join(other.pool(), fixed.uuid, 'a.qcow2');
    expect(existsSync(image)).toBe(true);
    expect(await other.domains.get('guest')).toMatchObject({
      state: 'INCOMING',
      ownerHost: 'here',
      migrationId: 'm1',
    });
    await expect(other.domains.startIncoming(request, { signal })).rejects.toMatchObject({
      reason: 'ALREADY_MIGRATING',
    });
    await incoming[Symbol.asyncDispose]();
    expect(await other.leftovers()).toEqual([]);
    expect(await other.domains.list()).toEqual([]);

    // A manager that ends before it could discard leaves it to the next one.
    await other.domains.startIncoming(request, { signal });
    await other.reopen();
    expect(await other.domains.get('guest')).toMatchObject({ state: 'INCOMING' });
    await other.domains.sweep({ signal });
    expect(await other.leftovers()).toEqual([]);
    expect(await other.domains.list()).toEqual([]);
    stage.domains.unclaim(fixed.uuid, 'm1');
    await stage.domains.stop('guest', { force: true, timeLimitMs: 1 }, { signal });
    await stage.domains.delete('guest', { tombstone: false });
  });

  it('whose start was cut short by the end of the agent is stopped by the next one', async () => {
    const { spec } = await stage.domains.create({ name: 'cut', ...small }, { signal });
    const { qemuPid } = await stage.domains.start('cut', { paused: true }, { signal });
    const path = join(stage.settings.directories.state, 'domains', spec.uuid, 'domain.json');
    const { process: _, ...before } = JSON.parse(readFileSync(path, 'utf8'));
    const domains = await stage.reopen(() => writeFileSync(path, JSON.stringify(before)));
    expect(await domains.get('cut')).toMatchObject({ state: 'STOPPED', qemuPid: 0 });
    expect(readStartTime(qemuPid)).toBeUndefined();
    await domains.delete('cut', { tombstone: false });
  });

  it('is refused by a host that cannot give it its CPU, for that reason', async () => {
    const { spec } = await stage.domains.create({ name: 'modern', ...small }, { signal });
    await stage.domains.start('modern', { paused: true }, { signal });
    const launchSpec = await stage.domains.claim('modern', 'm1').launchSpec({ signal });
    await using other = await HostStage.open({ host: 'there' });
    const request = {
      launchSpec: { ...launchSpec, cpuFeatures: { ...launchSpec.cpuFeatures, avx512f: true } },
      migrationId: 'm1',
      attempt: 1,
      epoch: 1,
      generation: 2,
      sourceHost: 'here',
    };
    await expect(other.domains.startIncoming(request, { signal })).rejects.toMatchObject({
      reason: 'CPU_FEATURE_MISSING',
      side: 'destination',
    });
    expect(await other.leftovers()).toEqual([]);
    stage.domains.unclaim(spec.uuid, 'm1');
    await stage.domains.stop('modern', { force: true, timeLimitMs: 1 }, { signal });
    await stage.domains.delete('modern', { tombstone: false });
  });

  it('is refused with every reason at once, and nothing is made', async () => {
    expect(await findOnPath('qemu-img')).toBeDefined();
    const refused = stage.domains.create(
      {
        name: 'wrong',
        ...small,
        machine: 'pc-q35-99.0',
        kernel: 'none',
        disks: [
          { id: 'a', sizeBytes: MIB, pool: 'fast' },
          { id: 'b', image: 'absent.raw' },
          { id: 'c', image: 'boot.raw', sizeBytes: 512 },
          { id: 'd', sizeBytes: MIB, shared: true },
        ],
        nics: [{ id: 'n', type: 'tap', bridge: 'nobridge0' }],
      },
      { signal },
    );
    await expect(refused).rejects.toMatchObject({
      reason: 'MACHINE_TYPE_UNKNOWN',
      violations: [
        { reason: 'MACHINE_TYPE_UNKNOWN', subject: 'machine' },
        { reason: 'MEDIA_MISSING', subject: 'kernel' },
        { reason: 'DISK_TARGET_MISSING', subject: 'disks[0].pool' },
        { reason: 'DISK_SHARED', subject: 'disks[3].shared' },
        { reason: 'BRIDGE_MISSING', subject: 'nics[0].bridge' },
        { reason: 'MEDIA_MISSING', subject: 'disks[1].image' },
        { reason: 'SPEC_INVALID', subject: 'disks[2].sizeBytes' },
      ],
    });
    const unknown = { name: 'wrong', ...small, cpu: 'NoSuchCpu' };
    await expect(stage.domains.create(unknown, { signal })).rejects.toMatchObject({
      reason: 'SPEC_INVALID',
      violations: [{ subject: 'cpu' }],
    });
    expect(await stage.leftovers()).toEqual([]);
    expect(stage.problems).toEqual([]);
  });
});

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';
import { migrate } from '../support/fleet.js';

describe('a migration', () => {
  let hosts: FakeFleet;
  beforeEach(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta'], { sharedPool: true });
  });
  afterEach(() => hosts[Symbol.asyncDispose]());

  it('moves a busy guest with all its disks and loses nothing', async () => {
    const source = await hosts.run('alpha', 'web');
    await hosts.writes(source, 20);
    const migration = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(migration.failure).toBeUndefined();
    expect(migration).toMatchObject({
      state: 'STATE_SUCCEEDED',
      runningOn: 'RUNNING_ON_DESTINATION',
      cancellable: false,
    });
    const [destination] = hosts.launcher('beta').alive;
    if (!destination) throw new Error('nothing runs on beta');
    await hosts.writes(destination, 20);
    await destination.stopGuest('paused');
    await hosts.judge('web', 'beta', [source, destination]);
    expect(source.alive).toBe(false);
  });

  it('goes through the phases in order and accounts for every part of the downtime', async () => {
    await hosts.run('alpha', 'web');
    const phases: string[] = [];
    const migration = await migrate(hosts.host('alpha'), 'web', 'beta', ({ phase }) => {
      if (phases.at(-1) !== phase && phase !== 'PHASE_UNSPECIFIED') phases.push(phase);
    });
    expect(migration.phaseTimes.map(({ phase }) => phase)).toEqual([
      'PHASE_PREPARE',
      'PHASE_MIRROR',
      'PHASE_PRECOPY',
      'PHASE_SWITCHOVER',
      'PHASE_HANDOVER',
      'PHASE_CLEANUP',
    ]);
    expect(phases.at(-1)).toBe('PHASE_CLEANUP');
    const downtime = migration.summary?.downtime;
    const {
      totalUs = 0,
      settleUs = 0,
      ramUs = 0,
      loadUs = 0,
      commitUs = 0,
      resumeUs = 0,
    } = {
      ...downtime,
    };
    expect(totalUs).toBeGreaterThan(0);
    expect(settleUs + ramUs + loadUs + commitUs + resumeUs).toBe(totalUs);
    expect(migration.summary?.totalTimeMs).toBeGreaterThanOrEqual(Math.floor(totalUs / 1000));
    expect(migration.summary?.transferredBytes).toBeGreaterThan(2 * 1024 ** 2);
    expect(migration.summary?.disks.map(({ diskId }) => diskId).sort()).toEqual(['data', 'root']);
  });

  it('leaves a tombstone that cannot be started, and removes it when the guest comes back', async () => {
    const qemu = await hosts.run('alpha', 'web');
    await migrate(hosts.host('alpha'), 'web', 'beta');
    const alpha = hosts.host('alpha');
    const tombstone = join(alpha.pool, '.tombstones', `${qemu.uuid}-g1`);
    expect(existsSync(join(tombstone, 'root.raw'))).toBe(true);
    const { domain } = await alpha.client.domains.getDomain({ domain: 'web' });
    expect(domain).toMatchObject({ state: 'STATE_MOVED', ownerHost: 'beta' });
    await expect(alpha.client.domains.startDomain({ domain: 'web' })).rejects.toMatchObject({
      reason: 'DOMAIN_MOVED',
      facts: { owner_host: 'beta' },
    });
    await migrate(hosts.host('beta'), 'web', 'alpha');
    expect(existsSync(tombstone)).toBe(false);
    const back = await alpha.client.domains.getDomain({ domain: 'web' });
    expect(back.domain).toMatchObject({
      state: 'STATE_RUNNING',
      ownerHost: 'alpha',
      generation: 3,
    });
  });

  it('leaves a tombstone that is deleted by name also where a new domain has the name', async () => {
    const qemu = await hosts.run('alpha', 'web');
    await migrate(hosts.host('alpha'), 'web', 'beta');
    const alpha = hosts.host('alpha');
    await hosts.run('alpha', 'web');
    await alpha.client.domains.deleteDomain({ domain: 'web', tombstone: true });
    expect(existsSync(join(alpha.pool, '.tombstones', `${qemu.uuid}-g1`))).toBe(false);
    await expect(
      alpha.client.domains.deleteDomain({ domain: 'web', tombstone: true }),
    ).rejects.toMatchObject({ reason: 'REQUEST_INVALID' });
    const { domain } = await alpha.client.domains.getDomain({ domain: 'web' });
    expect(domain?.state).toBe('STATE_RUNNING');
  });

  it('moves there and back ten times and loses nothing', async () => {
    const qemus = [await hosts.run('alpha', 'web')];
    for (let i = 0; i < 10; i++) {
      const [from, to] = i % 2 === 0 ? (['alpha', 'beta'] as const) : (['beta', 'alpha'] as const);
      const migration = await migrate(hosts.host(from), 'web', to);
      expect(migration.state, `move ${i}: ${migration.failure?.message}`).toBe('STATE_SUCCEEDED');
      const next = hosts.launcher(to).alive.at(-1);
      if (next) qemus.push(next);
    }
    const last = qemus.at(-1);
    if (!last) throw new Error('no QEMU');
    await hosts.writes(last, 5);
    await last.stopGuest('paused');
    await hosts.judge('web', 'alpha', qemus);
  });

  it('lets a paused domain arrive paused', async () => {
    await hosts.run('alpha', 'web', {}, true);
    const migration = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(migration.state).toBe('STATE_SUCCEEDED');
    const { domain } = await hosts.host('beta').client.domains.getDomain({ domain: 'web' });
    expect(domain?.state).toBe('STATE_PAUSED');
    expect(hosts.launcher('beta').alive[0]?.acknowledged).toEqual([]);
  });

  it('moves a domain without disks, and one whose disks are shared, without mirroring anything', async () => {
    await hosts.run('alpha', 'diskless', { disks: [] });
    const diskless = await migrate(hosts.host('alpha'), 'diskless', 'beta');
    expect(diskless.failure).toBeUndefined();
    expect(diskless.disks).toEqual([]);

    const source = await hosts.run('alpha', 'shared', {
      disks: [{ id: 'root', pool: 'common', sizeBytes: 1024 ** 2, shared: true }],
    });
    await hosts.writes(source, 5);
    const shared = await migrate(hosts.host('alpha'), 'shared', 'beta');
    expect(shared.failure).toBeUndefined();
    expect(shared.disks).toEqual([]);
    const destination = hosts.launcher('beta').alive.at(-1);
    if (!destination) throw new Error('nothing runs on beta');
    await hosts.writes(destination, 5);
    await destination.stopGuest('paused');
    await hosts.judge('shared', 'beta', [source, destination]);
  });

  it('is one migration however often it is started under one id', async () => {
    await hosts.run('alpha', 'web');
    const request = {
      domain: 'web',
      destinationHost: 'beta',
      migrationId: '11111111-2222-4333-8444-555555555555',
    };
    const { migrations } = hosts.host('alpha').client;
    await migrations.startMigration(request);
    await migrations.startMigration(request);
    await expect(
      migrations.startMigration({ ...request, downtimeLimitMs: 50 }),
    ).rejects.toMatchObject({ reason: 'MIGRATION_EXISTS' });
    const { migrations: all } = await migrations.listMigrations({});
    expect(all).toHaveLength(1);
  });

  it('can be seen and followed at the destination too', async () => {
    await hosts.run('alpha', 'web');
    const { migrationId } = await migrate(hosts.host('alpha'), 'web', 'beta');
    const { migration } = await hosts.host('beta').client.migrations.getMigration({ migrationId });
    expect(migration).toMatchObject({ state: 'STATE_SUCCEEDED', sourceHost: 'alpha' });
  });
});

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import { FakeFleet } from '../support/fake-fleet.js';
import type { Fault } from '../support/fake-qemu/faults.js';
import type { FakeQemu } from '../support/fake-qemu/qemu.js';
import { die, hold, refuse } from '../support/fake-qemu.js';
import { migrate, watchToEnd } from '../support/fleet.js';

/** Where something goes wrong: on which host, and what. */
interface Case {
  readonly name: string;
  readonly host: 'alpha' | 'beta';
  readonly fault: Fault;
  readonly reason: string;
}

const at = (command: string) => ({ command }) as const;

const CASES: readonly Case[] = [
  {
    name: 'the NBD server cannot be opened',
    host: 'beta',
    fault: { at: at('block-export-add'), incoming: true, action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'the destination QEMU dies while disks are mirrored',
    host: 'beta',
    fault: { at: { nbd: 'write' }, incoming: true, action: die },
    reason: 'DEST_QEMU_DIED',
  },
  {
    name: 'the destination disk is full',
    host: 'beta',
    fault: { at: { nbd: 'write' }, incoming: true, action: refuse('No space left on device') },
    reason: 'MIRROR_FAILED',
  },
  {
    name: 'the destination QEMU dies when RAM is asked for',
    host: 'beta',
    fault: { at: at('migrate-incoming'), when: 'after', incoming: true, action: die },
    reason: 'DEST_QEMU_DIED',
  },
  {
    name: 'the destination QEMU dies while RAM arrives',
    host: 'beta',
    fault: { at: { event: 'MIGRATION', status: 'active' }, incoming: true, action: die },
    reason: 'DEST_QEMU_DIED',
  },
  {
    name: 'a mirror cannot be started',
    host: 'alpha',
    fault: { at: at('blockdev-mirror'), action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'the source QEMU does not send RAM',
    host: 'alpha',
    fault: { at: at('migrate'), action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'a mirror does not settle',
    host: 'alpha',
    fault: { at: at('block-job-cancel'), action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'the source QEMU does not continue',
    host: 'alpha',
    fault: { at: at('migrate-continue'), action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'the NBD server does not close',
    host: 'beta',
    fault: { at: at('nbd-server-stop'), incoming: true, action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
  {
    name: 'the destination QEMU refuses to run the guest after the commit',
    host: 'beta',
    fault: { at: at('cont'), incoming: true, action: refuse('no') },
    reason: 'QEMU_ERROR',
  },
];

describe('when something goes wrong before the destination owns the guest', () => {
  let hosts: FakeFleet;
  let source: FakeQemu;
  beforeEach(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
    source = await hosts.run('alpha', 'web');
    await hosts.writes(source, 5);
  });
  afterEach(() => hosts[Symbol.asyncDispose]());

  it.each(CASES)(
    '$name: the guest runs on, beta holds nothing, the next one succeeds',
    async (c) => {
      hosts.launcher(c.host).faults.add(c.fault);
      const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
      expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
      expect(failed.failure?.reason).toBe(c.reason);
      await expectUntouched(hosts, source);
      await expectNextSucceeds(hosts, source);
    },
  );

  it.each([
    ['prepare', 'alpha', at('query-block')],
    ['mirror', 'alpha', at('blockdev-mirror')],
    ['precopy', 'alpha', at('migrate')],
    ['switchover', 'alpha', at('block-job-cancel')],
  ] as const)('a cancel in %s: the same', async (phase, host, point) => {
    const held = hold();
    hosts.launcher(host).faults.add({ at: point, action: held.action });
    const { migrations } = hosts.host('alpha').client;
    const { migration } = await migrations.startMigration({
      domain: 'web',
      destinationHost: 'beta',
    });
    const migrationId = migration?.migrationId ?? '';
    await held.reached;
    const now = await migrations.getMigration({ migrationId });
    expect(now.migration?.phase).toBe(`PHASE_${phase.toUpperCase()}`);
    await migrations.cancelMigration({ migrationId });
    held.release();
    const ended = await watchToEnd(hosts.host('alpha'), migrationId);
    expect(ended).toMatchObject({ state: 'STATE_CANCELLED', runningOn: 'RUNNING_ON_SOURCE' });
    expect(ended.failure?.reason).toBe('CANCELLED_BY');
    expect(ended.failure?.metadata['caller']).toContain('test');
    await expectUntouched(hosts, source);
    await expectNextSucceeds(hosts, source);
  });

  it('a cancel after the handover has begun has no effect, and says so', async () => {
    const held = hold();
    hosts.launcher('beta').faults.add({ at: at('cont'), incoming: true, action: held.action });
    const { migrations } = hosts.host('alpha').client;
    const { migration } = await migrations.startMigration({
      domain: 'web',
      destinationHost: 'beta',
    });
    const migrationId = migration?.migrationId ?? '';
    await held.reached;
    const answer = await migrations.cancelMigration({ migrationId });
    expect(answer.migration).toMatchObject({ cancellable: false, state: 'STATE_RUNNING' });
    held.release();
    const ended = await watchToEnd(hosts.host('alpha'), migrationId);
    expect(ended.state).toBe('STATE_SUCCEEDED');
  });

  it('the source QEMU dies: the domain is down on the source and beta holds nothing', async () => {
    hosts.launcher('alpha').faults.add({ at: at('blockdev-mirror'), action: die });
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure?.reason).toBe('SOURCE_QEMU_DIED');
    expect(failed.runningOn).toBe('RUNNING_ON_NOWHERE');
    await hosts.expectNothingOn('beta', source.uuid);
    const { domain } = await hosts.host('alpha').client.domains.startDomain({ domain: 'web' });
    expect(domain?.state).toBe('STATE_RUNNING');
  });

  it('the agent of the source stops: the guest runs on and the agent finds it again', async () => {
    const held = hold();
    hosts
      .launcher('beta')
      .faults.add({ at: at('migrate-incoming'), incoming: true, action: held.action });
    await hosts
      .host('alpha')
      .client.migrations.startMigration({ domain: 'web', destinationHost: 'beta' });
    await held.reached;
    const stopping = hosts.host('alpha').stop();
    held.release();
    await stopping;
    expect(source.alive).toBe(true);
    await hosts.host('alpha').start();
    await expectUntouched(hosts, source);
    await expectNextSucceeds(hosts, source);
  });

  it('a second migration of a domain that moves is refused with the id of the first', async () => {
    const held = hold();
    hosts.launcher('alpha').faults.add({ at: at('migrate'), action: held.action });
    const { migrations } = hosts.host('alpha').client;
    const first = await migrations.startMigration({ domain: 'web', destinationHost: 'beta' });
    await held.reached;
    await expect(
      migrations.startMigration({ domain: 'web', destinationHost: 'beta' }),
    ).rejects.toMatchObject({
      reason: 'ALREADY_MIGRATING',
      facts: { migration_id: first.migration?.migrationId },
    });
    held.release();
  });
});

describe('what cannot be moved', () => {
  let hosts: FakeFleet;
  beforeEach(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
  });
  afterEach(() => hosts[Symbol.asyncDispose]());

  it.each([
    [{ domain: 'nothing', destinationHost: 'beta' }, 'DOMAIN_NOT_FOUND'],
    [{ domain: 'web', destinationHost: 'gamma' }, 'PEER_NOT_FOUND'],
    [{ domain: 'web', destinationHost: 'alpha' }, 'SAME_HOST'],
    [{ domain: '', destinationHost: 'beta' }, 'REQUEST_INVALID'],
    [{ domain: 'web', destinationHost: 'beta', migrationId: 'x' }, 'REQUEST_INVALID'],
    [{ domain: 'web', destinationHost: 'beta', downtimeLimitMs: 60_001 }, 'REQUEST_INVALID'],
    [{ domain: 'web', destinationHost: 'beta', weight: 101 }, 'REQUEST_INVALID'],
  ] as const)('%j is refused with %s', async (request, reason) => {
    await hosts.run('alpha', 'web');
    await expect(
      hosts.host('alpha').client.migrations.startMigration(request),
    ).rejects.toMatchObject({ reason });
  });

  it('a stopped domain is refused, and one that lives elsewhere names its owner', async () => {
    await hosts.run('alpha', 'web');
    await migrate(hosts.host('alpha'), 'web', 'beta');
    const { migrations } = hosts.host('alpha').client;
    await expect(
      migrations.startMigration({ domain: 'web', destinationHost: 'beta' }),
    ).rejects.toMatchObject({ reason: 'DOMAIN_NOT_RUNNING', facts: { owner_host: 'beta' } });
  });

  it('a peer that is down fails the migration with the guest on the source', async () => {
    const source = await hosts.run('alpha', 'web');
    await hosts.host('beta').stop();
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
    expect(failed.failure).toMatchObject({ reason: 'PEER_UNREACHABLE', retryable: true });
    await hosts.host('beta').start();
    await expectUntouched(hosts, source);
    await expectNextSucceeds(hosts, source);
  });

  it('a destination without the pool or the memory refuses with everything that is wrong', async () => {
    await hosts[Symbol.asyncDispose]();
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (host, config) => (host === 'beta' ? { ...config, pools: [] } : config),
    });
    const source = await hosts.run('alpha', 'web');
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure).toMatchObject({
      reason: 'DISK_TARGET_MISSING',
      side: 'SIDE_DESTINATION',
    });
    await expectUntouched(hosts, source);
  });
});

async function expectUntouched(hosts: FakeFleet, source: FakeQemu): Promise<void> {
  await hosts.expectNothingOn('beta', source.uuid);
  expect(source.alive).toBe(true);
  expect(source.runState).toBe('running');
  expect([...source.jobs.keys()], 'jobs left').toEqual([]);
  expect(source.exports.size, 'exports left').toBe(0);
  await hosts.writes(source, 3);
}

async function expectNextSucceeds(hosts: FakeFleet, source: FakeQemu): Promise<Migration> {
  hosts.launcher('alpha').faults.clear();
  hosts.launcher('beta').faults.clear();
  const next = await migrate(hosts.host('alpha'), 'web', 'beta');
  expect(next.failure).toBeUndefined();
  const destination = hosts.launcher('beta').alive.at(-1);
  if (!destination) throw new Error('nothing runs on beta');
  await hosts.writes(destination, 3);
  await destination.stopGuest('paused');
  await hosts.judge('web', 'beta', [source, destination]);
  return next;
}

import { readdir } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';
import { hold } from '../support/fake-qemu.js';
import { migrate, watchToEnd } from '../support/fleet.js';
import { MovingGuest } from '../support/moving-guest.js';

describe('many migrations', () => {
  let hosts: FakeFleet;
  beforeEach(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
  });
  afterEach(() => hosts[Symbol.asyncDispose]());

  it('of four domains to one destination at once all arrive', async () => {
    const guests = [];
    for (let i = 0; i < 4; i++) guests.push(await MovingGuest.run(hosts));
    const ends = await Promise.all(
      guests.map(({ name }) => migrate(hosts.host('alpha'), name, 'beta')),
    );
    expect(ends.map(({ failure }) => failure?.reason)).toEqual(Array(4).fill(undefined));
    for (const guest of guests) await guest.expectMoved();
  });

  it('across each other, alpha to beta and beta to alpha, do not disturb one another', async () => {
    const one = await MovingGuest.run(hosts);
    const other = await hosts.run('beta', 'other');
    const ends = await Promise.all([
      migrate(hosts.host('alpha'), one.name, 'beta'),
      migrate(hosts.host('beta'), 'other', 'alpha'),
    ]);
    expect(ends.map(({ state }) => state)).toEqual(['STATE_SUCCEEDED', 'STATE_SUCCEEDED']);
    await one.expectMoved();
    expect(other.alive).toBe(false);
  });

  it('under one id on both hosts: the second is refused, and the first is not disturbed', async () => {
    const one = await MovingGuest.run(hosts);
    await hosts.run('beta', 'other');
    const migrationId = '00000000-0000-4000-8000-00000000abcd';
    const held = hold();
    hosts.launcher('beta').faults.add({ at: { command: 'query-block' }, action: held.action });
    const { migrations } = hosts.host('beta').client;
    await migrations.startMigration({ domain: 'other', destinationHost: 'alpha', migrationId });
    await held.reached;
    await hosts
      .host('alpha')
      .client.migrations.startMigration({ domain: one.name, destinationHost: 'beta', migrationId });
    const refused = await watchToEnd(hosts.host('alpha'), migrationId);
    expect(refused.failure?.reason).toBe('MIGRATION_EXISTS');
    const { migration } = await migrations.getMigration({ migrationId });
    expect(migration).toMatchObject({ domainName: 'other', state: 'STATE_RUNNING' });
    held.release();
    await watchToEnd(hosts.host('beta'), migrationId);
    await one.expectStays();
  });

  it('can be cancelled twice, and not at the destination', async () => {
    const guest = await MovingGuest.run(hosts);
    const held = hold();
    hosts.launcher('alpha').faults.add({ at: { command: 'migrate' }, action: held.action });
    const { migrations } = hosts.host('alpha').client;
    const { migration } = await migrations.startMigration({
      domain: guest.name,
      destinationHost: 'beta',
    });
    const migrationId = migration?.migrationId ?? '';
    await held.reached;
    const there = await hosts.host('beta').client.migrations.cancelMigration({ migrationId });
    expect(there.migration).toMatchObject({ cancellable: false, state: 'STATE_RUNNING' });
    for (let times = 0; times < 2; times++) await migrations.cancelMigration({ migrationId });
    held.release();
    const ended = await watchToEnd(hosts.host('alpha'), migrationId);
    expect(ended.state).toBe('STATE_CANCELLED');
    await guest.expectStays();
  });

  it('leave no descriptor, timer or socket behind, and no secret in any log', async () => {
    const guest = await MovingGuest.run(hosts);
    const warnings: string[] = [];
    const onWarning = ({ name }: Error) => void warnings.push(name);
    process.on('warning', onWarning);
    const thereAndBack = async () => {
      for (const [from, to] of [
        ['alpha', 'beta'],
        ['beta', 'alpha'],
      ] as const) {
        const { failure } = await migrate(hosts.host(from), guest.name, to);
        expect(failure).toBeUndefined();
      }
    };
    for (let times = 0; times < 3; times++) await thereAndBack();
    const before = await held();
    for (let times = 0; times < 22; times++) await thereAndBack();
    // Fewer will do: the audit may have been about to be written when they were counted first.
    await expect
      .poll(held, { timeout: 5_000 })
      .toSatisfy(({ files, resources }) => files <= before.files && resources <= before.resources);
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
    const log = hosts.host('alpha').log.concat(hosts.host('beta').log).join('');
    expect(log).toContain('the guest is here');
    // The shapes of a ticket and of a key: 32 bytes in base64url, and in hex.
    expect(log).not.toMatch(/["=:][A-Za-z0-9_-]{43}["\s,]|[0-9a-f]{64}|PRIVATE KEY/);
    for (const host of ['alpha', 'beta']) {
      const { directories } = hosts.host(host).config;
      const files = await readdir(directories.run, { recursive: true });
      expect(files.filter((path) => path.includes('psk'))).toEqual([]);
    }
  }, 60_000);
});

/** What this process holds open, counted. */
async function held() {
  const files = (await readdir('/proc/self/fd')).length;
  const resources = process.getActiveResourcesInfo().filter((kind) => kind !== 'Timeout');
  return { files, resources: resources.length };
}

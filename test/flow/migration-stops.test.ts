import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';
import { hold } from '../support/fake-qemu.js';
import { watchToEnd } from '../support/fleet.js';
import { Link } from '../support/link.js';
import { MovingGuest } from '../support/moving-guest.js';

/** A moment in each phase before the handover, by what QEMU is just told. */
const MOMENTS = [
  ['prepare', 'alpha', 'query-block'],
  ['prepare', 'beta', 'query-uuid'],
  ['mirror', 'alpha', 'blockdev-mirror'],
  ['mirror', 'beta', 'nbd-server-start'],
  ['precopy', 'alpha', 'migrate'],
  ['precopy', 'beta', 'migrate-incoming'],
  ['switchover', 'alpha', 'block-job-cancel'],
  ['switchover', 'alpha', 'migrate-continue'],
  ['switchover', 'beta', 'nbd-server-stop'],
] as const;

describe('when an agent stops during a migration', () => {
  let link: Link;
  let back: Link;
  let hosts: FakeFleet;
  let guest: MovingGuest;
  beforeEach(async () => {
    link = await Link.open();
    back = await Link.open();
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (host, config) =>
        host === 'alpha' ? link.leadTo('beta', config) : back.leadTo('alpha', config),
    });
    guest = await MovingGuest.run(hosts);
  });
  afterEach(async () => {
    await hosts[Symbol.asyncDispose]();
    await link[Symbol.asyncDispose]();
    await back[Symbol.asyncDispose]();
  });

  /** Begins to move the guest and answers when it has come to the command, which then waits. */
  const begin = async (host: string, command: string) => {
    const held = hold();
    hosts.launcher(host).faults.add({ at: { command }, action: held.action });
    const { migration } = await hosts.host('alpha').client.migrations.startMigration({
      domain: guest.name,
      destinationHost: 'beta',
    });
    await held.reached;
    return { migrationId: migration?.migrationId ?? '', release: held.release };
  };

  it.each(MOMENTS)('the source, in %s at %s %s: the guest runs on', async (_, host, command) => {
    const { release } = await begin(host, command);
    const stopping = hosts.host('alpha').stop();
    release();
    await stopping;
    await guest.expectUntouched();
    await hosts.host('alpha').start();
    await guest.expectStays();
  });

  it.each(MOMENTS.filter(([, , command]) => command !== 'nbd-server-stop'))(
    'the destination, in %s at %s %s: the guest runs on',
    async (_, host, command) => {
      const { migrationId, release } = await begin(host, command);
      const ending = watchToEnd(hosts.host('alpha'), migrationId);
      const stopping = hosts.host('beta').stop();
      release();
      await stopping;
      const ended = await ending;
      expect(ended).toMatchObject({ runningOn: 'RUNNING_ON_SOURCE' });
      await hosts.host('beta').start();
      await guest.expectStays();
    },
  );

  it('the destination, when the guest is just loaded there: it waits for the commit', async () => {
    const { migrationId, release } = await begin('beta', 'nbd-server-stop');
    const ending = watchToEnd(hosts.host('alpha'), migrationId);
    const stopping = hosts.host('beta').stop();
    release();
    await stopping;
    const ended = await ending;
    await hosts.host('beta').start();
    // It depends on which comes first, the vote or the stop; nobody is kept waiting either way.
    if (ended.state === 'STATE_SUCCEEDED') await guest.expectMoved();
    else await guest.expectStays();
  });

  it('the source, just after a cancel: it waits until the guest runs again', async () => {
    const { migrationId, release } = await begin('alpha', 'migrate-continue');
    await hosts.host('alpha').client.migrations.cancelMigration({ migrationId });
    const stopping = hosts.host('alpha').stop();
    release();
    await stopping;
    await guest.expectUntouched();
    await hosts.host('alpha').start();
    await guest.expectStays();
  });

  it.each(['alpha', 'beta'])('%s, in the handover: it is brought to its end', async (host) => {
    const { release } = await begin('beta', 'cont');
    const stopping = hosts.host(host).stop();
    release();
    await stopping;
    await hosts.host(host).start();
    await guest.expectMoved();
  });

  it('the source, while the destination cannot answer: the domain is in doubt and stays so', async () => {
    const { release } = await begin('beta', 'cont');
    link.silence();
    back.cut('refused');
    release();
    await hosts.host('alpha').stop();
    link.cut();
    await hosts.host('alpha').start();
    const { domains, migrations } = hosts.host('alpha').client;
    const { domain } = await domains.getDomain({ domain: guest.name });
    expect(domain?.state).toBe('STATE_IN_DOUBT');
    for (const forbidden of [
      domains.startDomain({ domain: guest.name }),
      domains.stopDomain({ domain: guest.name, force: true }),
      domains.deleteDomain({ domain: guest.name }),
      migrations.startMigration({ domain: guest.name, destinationHost: 'beta' }),
    ]) {
      await expect(forbidden).rejects.toMatchObject({ reason: 'OWNERSHIP_UNKNOWN' });
    }
    expect(guest.source).toMatchObject({ alive: true, runState: 'postmigrate' });
  });
});

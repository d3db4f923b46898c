import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';
import type { FaultAction, FaultPoint } from '../support/fake-qemu/faults.js';
import { die, refuse } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { Link } from '../support/link.js';

const ACTION = 'QEMU_CRASHED_WHILE_RECEIVING';

describe('a QEMU that ends while it receives a domain', () => {
  let link: Link;
  let hosts: FakeFleet;
  beforeEach(async () => {
    link = await Link.open();
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (host, config) => (host === 'alpha' ? link.leadTo('beta', config) : config),
    });
    await hosts.run('alpha', 'web');
  });
  afterEach(async () => {
    await hosts[Symbol.asyncDispose]();
    await link[Symbol.asyncDispose]();
  });

  async function events() {
    const { events } = await hosts.host('beta').client.hosts.listAuditEvents({});
    return events.filter(({ action }) => action === ACTION);
  }

  it.each<[string, FaultPoint]>([
    ['its disks', { nbd: 'write' }],
    ['its RAM, before the first byte', { command: 'migrate-incoming' }],
    ['its RAM', { event: 'MIGRATION', status: 'active' }],
  ])(
    'is on record, and no further QEMU is started for that migration: %s',
    async (_what, point) => {
      const { faults, qemus } = hosts.launcher('beta');
      const when = 'nbd' in point ? 'before' : 'after';
      faults.add({ at: point, when, incoming: true, times: 10, action: die });
      const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
      expect(failed.failure?.reason).toBe('DEST_QEMU_DIED');
      expect(qemus).toHaveLength(1);
      expect(await events()).toMatchObject([
        {
          caller: 'host/alpha',
          decision: 'DECISION_EVENT',
          reason: 'DEST_QEMU_DIED',
          subject: failed.migrationId,
        },
      ]);
      const logged = hosts.host('beta').log.filter((line) => line.includes('QEMU crashed while'));
      expect(logged).toHaveLength(1);
    },
  );

  it('ends the migration too where it was started because the RAM stream had broken', async () => {
    const { faults, qemus } = hosts.launcher('beta');
    const at = { event: 'MIGRATION', status: 'active' };
    const cut: FaultAction = (qemu) => qemu.breakRam();
    hosts.launcher('alpha').faults.add({ at, when: 'after', action: cut });
    const dieAsSecond = () => {
      if (qemus.length > 1) qemus.at(-1)?.die();
    };
    const point = { event: 'MIGRATION', status: 'active' };
    faults.add({ at: point, when: 'after', incoming: true, times: 10, action: dieAsSecond });
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
    expect(qemus).toHaveLength(2);
    expect(await events()).toHaveLength(1);
    await hosts.expectNothingOn('beta', failed.domainUuid);
  });

  it('is not what an end is called that the agent brought about', async () => {
    hosts.launcher('alpha').faults.add({
      at: { command: 'migrate' },
      times: 10,
      action: refuse('no'),
    });
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure?.reason).toBe('QEMU_ERROR');
    await hosts.expectNothingOn('beta', failed.domainUuid);
    expect(await events()).toEqual([]);
  });
});

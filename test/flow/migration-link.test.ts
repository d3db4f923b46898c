import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeFleet } from '../support/fake-fleet.js';
import type { FaultAction } from '../support/fake-qemu/faults.js';
import { refuse } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { Link } from '../support/link.js';
import { MovingGuest, type Outcome } from '../support/moving-guest.js';

/** A moment on the destination at which the source waits for an answer. */
interface Moment {
  readonly waitingFor: string;
  readonly command: string;
  readonly outcome: Outcome;
}

const MOMENTS: readonly Moment[] = [
  { waitingFor: 'Prepare', command: 'query-uuid', outcome: 'stays' },
  { waitingFor: 'ExportDisks', command: 'nbd-server-start', outcome: 'moves' },
  { waitingFor: 'AcceptRam', command: 'migrate-incoming', outcome: 'moves' },
  { waitingFor: 'AwaitLoaded', command: 'nbd-server-stop', outcome: 'moves' },
  // It is asked for until it is answered.
  { waitingFor: 'Commit', command: 'cont', outcome: 'moves' },
];

/** The destination asks the source every five seconds whether the migration still goes on. */
const NOTICED_MS = 12_000;

describe('when the link between the agents fails while the source waits for an answer', () => {
  let link: Link;
  let hosts: FakeFleet;
  let guest: MovingGuest;
  beforeEach(async () => {
    link = await Link.open();
    hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (host, config) => (host === 'alpha' ? link.leadTo('beta', config) : config),
    });
    guest = await MovingGuest.run(hosts);
  });
  afterEach(async () => {
    await hosts[Symbol.asyncDispose]();
    await link[Symbol.asyncDispose]();
  });

  const move = async (command: string, action: FaultAction) => {
    hosts.launcher('beta').faults.add({ at: { command }, incoming: true, action });
    return await migrate(hosts.host('alpha'), guest.name, 'beta');
  };

  it.each(MOMENTS)('$waitingFor, with a reset: the guest $outcome', async (moment) => {
    const ended = await move(moment.command, () => link.cut());
    await guest.expect(moment.outcome, ended);
  });

  it.each(MOMENTS)('$waitingFor, refused for 2 s: the guest is in one place', async (moment) => {
    const healed = delay(0);
    const ended = await move(moment.command, () => {
      link.cut('refused');
      void healed.then(() => delay(2_000)).then(() => link.heal());
    });
    await guest.expect(ended.failure ? 'stays' : 'moves', ended, NOTICED_MS);
  });

  it.each(MOMENTS)('$waitingFor, silent for 2 s: the guest moves', async (moment) => {
    const ended = await move(moment.command, () => {
      link.silence();
      void delay(2_000).then(() => link.heal());
    });
    await guest.expect('moves', ended);
  });

  it('Abort: the destination asks, hears of the end, and keeps nothing', async () => {
    hosts.launcher('alpha').faults.add({
      at: { command: 'blockdev-mirror' },
      action: (qemu) => {
        link.cut('refused');
        return refuse('The fault of this test')(qemu);
      },
    });
    const ended = await migrate(hosts.host('alpha'), guest.name, 'beta');
    link.heal();
    await guest.expect('stays', ended, NOTICED_MS);
  });

  it('SourceGone: the guest has moved all the same', async () => {
    hosts.launcher('alpha').faults.add({
      at: { command: 'quit' },
      action: () => link.cut('refused'),
    });
    const ended = await migrate(hosts.host('alpha'), guest.name, 'beta');
    await guest.expect('moves', ended);
  });

  it('the RAM stream, while the guest runs: it is sent again, into another QEMU', async () => {
    const at = { event: 'MIGRATION', status: 'active' };
    const cut: FaultAction = (qemu) => qemu.breakRam();
    hosts.launcher('alpha').faults.add({ at, when: 'after', action: cut });
    const ended = await migrate(hosts.host('alpha'), guest.name, 'beta');
    await guest.expect('moves', ended);
    const log = hosts.host('alpha').log.join('');
    expect(log).toContain('the RAM stream broke; trying again');
  });
});

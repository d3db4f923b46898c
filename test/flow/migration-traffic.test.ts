import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import { DEFAULT_LINK, type LinkSettings } from '../../src/migration/traffic.js';
import { FakeFleet } from '../support/fake-fleet.js';
import type { FakeQemu } from '../support/fake-qemu/qemu.js';
import { hold } from '../support/fake-qemu.js';
import { migrate, watchToEnd } from '../support/fleet.js';
import { MovingGuest } from '../support/moving-guest.js';

const MIB = 1024 ** 2;
/** RAM has been sent but for its last part, and the guest still runs. */
const LAST_OF_RAM = { event: 'MIGRATION', status: 'pre-switchover' } as const;

let hosts: FakeFleet;
afterEach(() => hosts?.[Symbol.asyncDispose]());

async function open(names: readonly string[], link: Partial<LinkSettings> = {}): Promise<void> {
  hosts = await FakeFleet.start(names, {
    config: (_, config) => ({ ...config, link: { ...DEFAULT_LINK, ...link } }),
  });
}

/** Starts a migration and answers its id. */
async function start(source: string, domain: string, destinationHost: string): Promise<string> {
  const { migrations } = hosts.host(source).client;
  const { migration } = await migrations.startMigration({ domain, destinationHost });
  return migration?.migrationId ?? '';
}

async function look(source: string, migrationId: string): Promise<Migration | undefined> {
  const { migrations } = hosts.host(source).client;
  return (await migrations.getMigration({ migrationId })).migration;
}

/** Resolves when all disks of a migration are ready, and it is still in the phase of mirrors. */
async function waitsForItsTurn(source: string, migrationId: string): Promise<void> {
  await vi.waitFor(
    async () => {
      const migration = await look(source, migrationId);
      expect(migration?.phase).toBe('PHASE_MIRROR');
      expect(migration?.disks.map(({ ready }) => ready)).toEqual([true, true]);
    },
    { timeout: 5_000 },
  );
}

/**
 * What its mirrors may send together, in bytes per second; 0 where that is not limited. Those that
 * are ready follow the guest whatever their speed is.
 */
function speedOf(qemu: FakeQemu): number {
  const copying = [...qemu.jobs.values()]
    .map((job) => job.describe())
    .filter(({ ready }) => !ready);
  const speeds = copying.map(({ speed }) => speed);
  return speeds.includes(0) ? 0 : speeds.reduce((sum, speed) => sum + speed, 0);
}

const soon = (check: () => void) => vi.waitFor(check, { timeout: 5_000, interval: 10 });

/** From when until when a migration was in some phases, which follow each other. */
function spanOf({ phaseTimes }: Migration, first: string, last: string): [number, number] {
  const time = (name: string) => phaseTimes.find(({ phase }) => phase === `PHASE_${name}`);
  return [time(first)?.startTime?.getTime() ?? 0, time(last)?.endTime?.getTime() ?? 0];
}

/** How many of some spans overlap at most. */
function mostAtOnce(spans: readonly (readonly [number, number])[]): number {
  return Math.max(
    ...spans.map(([at]) => spans.filter(([from, until]) => from <= at && at < until).length),
  );
}

describe('eight migrations at once', () => {
  it.each([1, 2])(
    'send the RAM of %d at a time, and pause one guest at a time',
    async (ramPhases) => {
      await open(['alpha', 'beta'], { ramPhases });
      const guests = [];
      for (let i = 0; i < 8; i++) guests.push(await MovingGuest.run(hosts));
      const ends = await Promise.all(
        guests.map(({ name }) => migrate(hosts.host('alpha'), name, 'beta')),
      );
      expect(ends.map(({ failure }) => failure?.reason)).toEqual(Array(8).fill(undefined));
      const ram = ends.map((end) => spanOf(end, 'PRECOPY', 'HANDOVER'));
      expect(mostAtOnce(ram)).toBeLessThanOrEqual(ramPhases);
      const paused = ends.map((end) => spanOf(end, 'SWITCHOVER', 'HANDOVER'));
      expect(mostAtOnce(paused)).toBe(1);
      // A turn is passed on in the instant in which a phase ends.
      const prepares = ends.map((end) => {
        const [from, until] = spanOf(end, 'PREPARE', 'PREPARE');
        return [from, Math.max(from + 1, until - 5)] as const;
      });
      expect(mostAtOnce(prepares)).toBeLessThanOrEqual(4);
      const disks = ends.map((end) => spanOf(end, 'MIRROR', 'MIRROR'));
      expect(mostAtOnce(disks), 'disks are copied side by side').toBeGreaterThan(1);
      for (const guest of guests) await guest.expectMoved();
    },
  );
});

describe('a migration that waits for its turn', () => {
  /** Holds the first one that comes before its guest is paused; its RAM is on its way then. */
  async function withFirstHeld() {
    const held = hold();
    hosts.launcher('alpha').faults.add({ at: LAST_OF_RAM, action: held.action });
    const first = await MovingGuest.run(hosts);
    const second = await MovingGuest.run(hosts);
    const firstId = await start('alpha', first.name, 'beta');
    await held.reached;
    return { held, first, second, firstId };
  }

  it('stays in the phase of mirrors, can be cancelled, and disturbs nobody', async () => {
    await open(['alpha', 'beta']);
    const { held, first, second, firstId } = await withFirstHeld();
    const secondId = await start('alpha', second.name, 'beta');
    await waitsForItsTurn('alpha', secondId);
    await hosts.writes(second.source, 5);
    await hosts.host('alpha').client.migrations.cancelMigration({ migrationId: secondId });
    const cancelled = await watchToEnd(hosts.host('alpha'), secondId);
    expect(cancelled.state).toBe('STATE_CANCELLED');
    held.release();
    const { failure } = await watchToEnd(hosts.host('alpha'), firstId);
    expect(failure).toBeUndefined();
    await first.expectMoved();
    await second.expectStays();
  });

  it('gets it when the QEMU dies to which the other one sends', async () => {
    await open(['alpha', 'beta', 'gamma']);
    const held = hold();
    hosts.launcher('alpha').faults.add({ at: LAST_OF_RAM, action: held.action });
    const first = await MovingGuest.run(hosts);
    const second = await MovingGuest.run(hosts);
    const firstId = await start('alpha', first.name, 'gamma');
    await held.reached;
    const secondId = await start('alpha', second.name, 'beta');
    await waitsForItsTurn('alpha', secondId);
    for (const qemu of hosts.launcher('gamma').alive) qemu.die();
    held.release();
    const failed = await watchToEnd(hosts.host('alpha'), firstId);
    expect(failed.state).toBe('STATE_FAILED');
    const { failure } = await watchToEnd(hosts.host('alpha'), secondId);
    expect(failure).toBeUndefined();
    await second.expectMoved();
    await first.expectUntouched();
  });
});

describe('mirrors that copy', () => {
  it('keep a floor while the RAM of another domain flows, and get their rate back', async () => {
    await open(['alpha', 'beta']);
    const copying = hold();
    hosts.launcher('beta').faults.add({ at: { nbd: 'write' }, action: copying.action });
    const slow = await MovingGuest.run(hosts);
    const quick = await MovingGuest.run(hosts);
    const slowId = await start('alpha', slow.name, 'beta');
    await copying.reached;
    const sending = hold();
    hosts.launcher('alpha').faults.add({ at: LAST_OF_RAM, action: sending.action });
    const quickId = await start('alpha', quick.name, 'beta');
    await sending.reached;
    await soon(() => {
      expect(speedOf(slow.source)).toBeGreaterThan(0);
      expect(speedOf(slow.source)).toBeLessThanOrEqual(MIB + 2);
    });
    sending.release();
    await watchToEnd(hosts.host('alpha'), quickId);
    await soon(() => expect(speedOf(slow.source)).toBe(0));
    copying.release();
    const { failure } = await watchToEnd(hosts.host('alpha'), slowId);
    expect(failure).toBeUndefined();
    await slow.expectMoved();
  });
});

describe('two hosts that send to each other', () => {
  it('do not wait for one another, however many domains there are', async () => {
    await open(['alpha', 'beta']);
    const names = ['1', '2', '3'];
    for (const name of names) {
      await hosts.run('alpha', `a${name}`);
      await hosts.run('beta', `b${name}`);
    }
    const ends = await Promise.all(
      names.flatMap((name) => [
        migrate(hosts.host('alpha'), `a${name}`, 'beta'),
        migrate(hosts.host('beta'), `b${name}`, 'alpha'),
      ]),
    );
    expect(ends.map(({ failure }) => failure?.reason)).toEqual(Array(6).fill(undefined));
    for (const source of ['alpha', 'beta']) {
      const own = ends.filter(({ sourceHost }) => sourceHost === source);
      expect(mostAtOnce(own.map((end) => spanOf(end, 'PRECOPY', 'HANDOVER')))).toBe(1);
    }
  });
});

describe('two hosts that send to a third', () => {
  it('send no more together than it says it can take, and nothing of its RAM at once', async () => {
    const budget = 64 * MIB;
    await open(['alpha', 'beta', 'gamma'], { ingressBytesPerS: budget });
    const copying = hold();
    hosts.launcher('gamma').faults.add({ at: { nbd: 'write' }, times: 4, action: copying.action });
    const qemus = [await hosts.run('alpha', 'one'), await hosts.run('beta', 'other')];
    const speeds = () => qemus.map(speedOf);
    const ids = [await start('alpha', 'one', 'gamma')];
    await soon(() => expect(speeds()[0]).toBe(budget));
    ids.push(await start('beta', 'other', 'gamma'));
    await soon(() => {
      const [one = 0, other = 0] = speeds();
      // A mirror that has only just begun is told within milliseconds.
      if (other > 0) expect(one + other).toBeLessThanOrEqual(budget + 4);
      expect([one, other]).toEqual([budget / 2, budget / 2]);
    });
    copying.release();
    const ends = await Promise.all([
      watchToEnd(hosts.host('alpha'), ids[0] ?? ''),
      watchToEnd(hosts.host('beta'), ids[1] ?? ''),
    ]);
    expect(ends.map(({ failure }) => failure?.reason)).toEqual([undefined, undefined]);
    expect(mostAtOnce(ends.map((end) => spanOf(end, 'PRECOPY', 'HANDOVER')))).toBe(1);
  });
});

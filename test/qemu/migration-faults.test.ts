import { execFileSync } from 'node:child_process';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { truncate } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import type { PeerDirectory } from '../../src/migration/peer.js';
import { createBootSectorImage } from '../support/blocks.js';
import { type FleetOptions, migrate, watchToEnd } from '../support/fleet.js';
import { freePorts } from '../support/free-ports.js';
import { wrapped } from '../support/hostile.js';
import { RealFleet, type RealGuest } from '../support/real-fleet.js';

const MIB = 1024 ** 2;
/** Slow enough that a test can act while disks, or RAM, are on their way. */
const SLOW = 2 * MIB;
/** Even empty pages take their time then. */
const BIG = { memoryBytes: 768 * MIB };

let hosts: RealFleet;
afterEach(() => hosts[Symbol.asyncDispose]());

/** Starts a migration, acts once when it has come to a phase, and answers how it ended. */
async function actIn(
  phase: Migration['phase'],
  act: (migration: Migration) => unknown,
  maxBandwidthBytesPerS = SLOW,
): Promise<Migration> {
  const alpha = hosts.host('alpha');
  const { migration } = await alpha.client.migrations.startMigration({
    domain: 'web',
    destinationHost: 'beta',
    maxBandwidthBytesPerS,
  });
  let acted: Promise<unknown> | undefined;
  const ended = await watchToEnd(alpha, migration?.migrationId ?? '', (now) => {
    if (now.phase === phase) acted ??= Promise.resolve(act(now));
  });
  await acted;
  expect(acted, `the migration never came to ${phase}`).toBeDefined();
  return ended;
}

async function killIncoming(uuid: string): Promise<void> {
  const { domain } = await hosts.host('beta').client.domains.getDomain({ domain: uuid });
  if (!domain?.qemuPid) throw new Error('beta has no QEMU of the domain');
  process.kill(domain.qemuPid, 'SIGKILL');
}

/** The guest goes on, beta holds nothing, and the next migration succeeds and loses nothing. */
async function expectUnharmed(guest: RealGuest): Promise<void> {
  await guest.writes(30);
  await hosts.expectNothingOn('beta', guest.uuid);
  const next = await migrate(hosts.host('alpha'), 'web', 'beta');
  expect(next.failure).toBeUndefined();
  guest.arrived('beta');
  await guest.writes(30);
  await guest.judge();
}

describe('with real QEMU, when a migration fails', () => {
  it.each([
    ['PHASE_MIRROR', [{}, { bus: 'virtio-scsi' }]],
    ['PHASE_PRECOPY', [{}]],
  ] as const)(
    'because the destination QEMU is killed in %s, the guest runs on',
    async (phase, disks) => {
      hosts = await RealFleet.start(['alpha', 'beta']);
      const guest = await hosts.run('alpha', disks, BIG);
      const failed = await actIn(phase, () => killIncoming(guest.uuid));
      expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
      expect(failed.failure).toMatchObject({ reason: 'DEST_QEMU_DIED', side: 'SIDE_DESTINATION' });
      await expectUnharmed(guest);
    },
  );

  it('because the destination QEMU is killed in the stop window, nothing is lost or run twice', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run('alpha', [{}]);
    const ended = await actIn(
      'PHASE_SWITCHOVER',
      () => killIncoming(guest.uuid).catch(() => undefined),
      0,
    );
    // Who has the guest depends on how far the handover had come; that exactly one host has it does
    // not.
    if (ended.runningOn === 'RUNNING_ON_SOURCE') return await expectUnharmed(guest);
    guest.arrived('beta');
    if (ended.runningOn === 'RUNNING_ON_NOWHERE') {
      await hosts.host('beta').client.domains.startDomain({ domain: 'web' });
    }
    const { domain } = await hosts.host('alpha').client.domains.getDomain({ domain: 'web' });
    expect(domain?.state).toBe('STATE_MOVED');
  });

  it.each([
    ['PHASE_PREPARE', [{}], SLOW],
    ['PHASE_MIRROR', [{}, { bus: 'virtio-scsi' }], SLOW],
    ['PHASE_PRECOPY', [{}], SLOW],
    ['PHASE_SWITCHOVER', [{}], 0],
  ] as const)('because it is cancelled in %s, the guest runs on', async (phase, disks, rate) => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run('alpha', disks, rate === 0 ? {} : BIG);
    const { migrations } = hosts.host('alpha').client;
    const ended = await actIn(
      phase,
      ({ migrationId }) => migrations.cancelMigration({ migrationId }),
      rate,
    );
    if (phase === 'PHASE_SWITCHOVER' && ended.state === 'STATE_SUCCEEDED') {
      // The handover had begun before the cancel came: then it has no effect.
      guest.arrived('beta');
      await guest.writes(30);
      return await guest.judge();
    }
    expect(ended).toMatchObject({ state: 'STATE_CANCELLED', runningOn: 'RUNNING_ON_SOURCE' });
    await expectUnharmed(guest);
  });

  it('because all data ports are taken, it says so', async () => {
    const [port = 0] = await freePorts(1);
    // One for the disks, one for the RAM.
    const taken = [createServer(), createServer()];
    for (const [index, server] of taken.entries()) {
      await new Promise<void>((resolve) => server.listen(port + index, '127.0.0.1', resolve));
    }
    try {
      hosts = await RealFleet.start(['alpha', 'beta'], {
        config: (_, config) => ({
          ...config,
          data: { address: '127.0.0.1', ports: { first: port, last: port + 1 }, streamPort: 0 },
        }),
      });
      const guest = await hosts.run('alpha', [{}]);
      const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
      expect(failed.failure).toMatchObject({ reason: 'NO_PORT', side: 'SIDE_DESTINATION' });
      for (const server of taken) await new Promise((resolve) => server.close(resolve));
      await expectUnharmed(guest);
    } finally {
      for (const server of taken) server.close();
    }
  });

  it('because the destination refuses the machine or has no room, it says everything at once', async () => {
    hosts = await RealFleet.start(['alpha', 'beta'], {
      config: (host, config) => (host === 'beta' ? { ...config, pools: [] } : config),
    });
    const guest = await hosts.run('alpha', [{}, { bus: 'virtio-scsi' }]);
    const failed = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(failed.failure).toMatchObject({
      reason: 'DISK_TARGET_MISSING',
      side: 'SIDE_DESTINATION',
      phase: 'prepare',
    });
    expect(failed.failure?.message.match(/has no pool default/g)).toHaveLength(2);
    await guest.writes(20);
  });

  describe.runIf(process.getuid?.() === 0)('with a small pool at the destination', () => {
    let small: string;
    let guest: RealGuest;
    let filler: string;

    const open = async (parts: FleetOptions['parts']) => {
      hosts = await RealFleet.start(['alpha', 'beta'], {
        ...(parts ? { parts } : {}),
        config: (host, config) => {
          if (host !== 'beta') return config;
          const path = join(config.directories.state, '..', 'small');
          mkdirSync(path, { recursive: true });
          execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=128m,mode=0700', 'tmpfs', path]);
          mkdirSync(join(path, 'images'));
          return { ...config, pools: [{ name: 'default', path, shared: false }] };
        },
      });
      small = hosts.host('beta').pool;
      filler = join(small, 'filler');
      const image = join(hosts.host('alpha').pool, 'images', 'big.raw');
      await createBootSectorImage(image, 40 * MIB);
      writeFileSync(image, Buffer.alloc(24 * MIB, 0x5a), { flag: 'r+', flush: true });
      await createBootSectorImageAgain(image);
      guest = await hosts.run('alpha', [{ image: 'big.raw' }]);
    };
    const expectGuestStays = async () => {
      await guest.writes(30);
      await hosts.expectNothingOn('beta', guest.uuid);
      await truncate(filler, 0);
      await expectUnharmed(guest);
    };
    afterEach(async () => {
      await hosts.host('beta').stop();
      execFileSync('umount', ['-l', small]);
    });

    it('because it fills up, the guest runs on', async () => {
      await open(undefined);
      const failed = await actIn('PHASE_MIRROR', () => fill(filler), 4 * MIB);
      expect(failed.failure?.reason).toBe('MIRROR_FAILED');
      await expectGuestStays();
    });

    it('because the source writes more than it announced, the pool is not filled', async () => {
      await open((host) => (host === 'alpha' ? { peers: announcingNothing } : {}));
      const full = fill(filler);
      await truncate(filler, full - 16 * MIB);
      const failed = await actIn('PHASE_MIRROR', () => undefined, 4 * MIB);
      expect(failed.failure).toMatchObject({
        reason: 'DISK_NO_SPACE',
        side: 'SIDE_DESTINATION',
        metadata: { pool: 'default' },
      });
      await expectGuestStays();
    });
  });
});

/** Tells the destination that no disk has any blocks. */
function announcingNothing(directory: PeerDirectory): PeerDirectory {
  return {
    calls: (host) => {
      const calls = directory.calls(host);
      return wrapped(calls, {
        prepare: (header, { disks, ...rest }, options) => {
          const empty = disks.map((disk) => ({ ...disk, allocatedBytes: 0 }));
          return calls.prepare(header, { ...rest, disks: empty }, options);
        },
      });
    },
  };
}

/** Puts the boot sector back where the filling has gone over it. */
async function createBootSectorImageAgain(image: string): Promise<void> {
  const { open, readFile } = await import('node:fs/promises');
  const sector = await readFile(new URL('../guest/boot-sector.bin', import.meta.url));
  await using file = await open(image, 'r+');
  await file.write(sector, 0, sector.length, 0);
  // The guest's own blocks must not look torn: where it writes, there is nothing yet.
  await file.write(Buffer.alloc(8192 * 512), 0, 8192 * 512, 32_768);
}

/** Takes all the room there is. */
function fill(path: string): number {
  const piece = Buffer.alloc(MIB, 1);
  try {
    for (;;) writeFileSync(path, piece, { flag: 'a' });
  } catch {
    // Full: that is what was wanted.
    return statSync(path).size;
  }
}

import { stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { migrate } from '../support/fleet.js';
import { freePorts } from '../support/free-ports.js';
import { RealFleet, type RealGuest } from '../support/real-fleet.js';

let hosts: RealFleet;
afterEach(() => hosts[Symbol.asyncDispose]());

async function move(guest: RealGuest, from: string, to: string) {
  const migration = await migrate(hosts.host(from), guest.uuid, to);
  expect(migration.failure).toBeUndefined();
  expect(migration.state).toBe('STATE_SUCCEEDED');
  guest.arrived(to);
  return migration;
}

describe('with real QEMU, a migration', () => {
  it('moves a guest that writes all the time', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run('alpha', [{}]);
    const { summary } = await move(guest, 'alpha', 'beta');
    expect(summary?.downtime?.totalUs).toBeGreaterThan(0);
    expect(summary?.downtime?.totalUs).toBeLessThan(2_000_000);
    await guest.writes(100);
    await guest.judge();
  });

  it('moves four disks on mixed buses and in mixed formats, and keeps thin what is thin', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run(
      'alpha',
      [
        { bus: 'ide' },
        { bus: 'virtio-blk', format: 'qcow2' },
        { bus: 'virtio-scsi' },
        { bus: 'ide', format: 'qcow2' },
      ],
      { machine: 'pc' },
    );
    const { summary } = await move(guest, 'alpha', 'beta');
    expect(summary?.disks).toHaveLength(4);
    for (const disk of summary?.disks ?? []) {
      expect(disk.sizeBytes).toBe(8 * 1024 ** 2);
      expect(disk.destinationAllocatedBytes).toBeLessThan(7 * 1024 ** 2);
    }
    await guest.writes(100);
    await guest.judge();
  });

  it('moves ten times in a row, there and back', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run('alpha', [{}, { bus: 'virtio-scsi', format: 'qcow2' }]);
    for (let i = 0; i < 10; i++) {
      await (i % 2 === 0 ? move(guest, 'alpha', 'beta') : move(guest, 'beta', 'alpha'));
      await guest.writes(20);
    }
    await guest.judge();
  });

  it('moves a domain without disks', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const guest = await hosts.run('alpha', []);
    await move(guest, 'alpha', 'beta');
    expect(await guest.state()).toBe('STATE_RUNNING');
  });

  it('lets a paused domain arrive paused, with its disks usable', async () => {
    hosts = await RealFleet.start(['alpha', 'beta']);
    const { client } = hosts.host('alpha');
    const guest = await hosts.run('alpha', [{}]);
    await client.domains.stopDomain({ domain: 'web', force: true });
    await client.domains.startDomain({ domain: 'web', paused: true });
    await move(guest, 'alpha', 'beta');
    expect(await guest.state()).toBe('STATE_PAUSED');
    await move(guest, 'beta', 'alpha');
    expect(await guest.state()).toBe('STATE_PAUSED');
  });

  it('mirrors nothing of a shared disk, and loses nothing on it', async () => {
    hosts = await RealFleet.start(['alpha', 'beta'], { sharedPool: true });
    const guest = await hosts.run('alpha', [{ pool: 'common', shared: true }, {}]);
    const { summary } = await move(guest, 'alpha', 'beta');
    expect(summary?.disks.map(({ diskId }) => diskId)).toEqual(['disk1']);
    await guest.writes(50);
    await move(guest, 'beta', 'alpha');
    await guest.writes(50);
    await guest.judge();
    const image = join(hosts.fleet.folder, 'common', guest.uuid, 'disk0.raw');
    expect((await stat(image)).size).toBe(8 * 1024 ** 2);
  });

  it('takes the next data port when one is taken', async () => {
    const [first = 0] = await freePorts(1);
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(first, '127.0.0.1', resolve));
    try {
      hosts = await RealFleet.start(['alpha', 'beta'], {
        config: (_, config) => ({
          ...config,
          data: { address: '127.0.0.1', ports: { first, last: first + 4 }, streamPort: 0 },
        }),
      });
      const guest = await hosts.run('alpha', [{}]);
      await move(guest, 'alpha', 'beta');
      await guest.writes(20);
      await guest.judge();
    } finally {
      await new Promise((resolve) => taken.close(resolve));
    }
  });
});

import { mkdtemp, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Carriage } from '../../src/channel/types.js';
import { connectUnix } from '../../src/channel/unix-socket.js';
import type { RamServerAddress } from '../../src/domain/launch-spec.js';
import type { PeerHeader } from '../../src/migration/peer.js';
import { LocalCarrier } from '../../src/rpc/carrier.js';
import { patiently } from '../support/fake-agent.js';
import { die } from '../support/fake-qemu.js';
import { memoryMib, Tally, whileAnswering } from '../support/hostile.js';
import { LyingSource } from '../support/lying-source.js';

const MIB = 1024 ** 2;

const tally = new Tally('a source that lies in its RAM');
afterAll(() => tally.finish());

let stage: LyingSource;
let folder: string;
let carrier: LocalCarrier;
let sockets: Socket[];
beforeEach(async () => {
  stage = await LyingSource.start();
  folder = await mkdtemp(join(tmpdir(), 'drover-hostile-'));
  const { tls } = stage.hosts.host('mallory').config;
  carrier = new LocalCarrier({ address: '127.0.0.1', port: 0, tls });
  sockets = [];
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await carrier.close();
  await stage?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

describe('a source that lies in its RAM', () => {
  async function toRam(): Promise<{ header: PeerHeader; server: RamServerAddress }> {
    const header = await stage.prepare();
    await stage.calls.exportDisks(header, 'stream', patiently());
    return { header, server: await stage.calls.acceptRam(header, 'stream', patiently()) };
  }

  /** Brings the ticket; the socket stands for mallory's QEMU. */
  async function open(server: RamServerAddress): Promise<{ carriage: Carriage; qemu: Socket }> {
    const path = join(folder, `${sockets.length}.sock`);
    const carriage = await carrier.carry(path, server, patiently());
    const qemu = await connectUnix(path, patiently());
    qemu.resume();
    sockets.push(qemu);
    return { carriage, qemu };
  }

  it('opens one stream with one ticket, also where it asks twice at the same moment', async () => {
    const [one, other] = [await toRam(), await toRam()];
    const asked = ['a', 'b', 'c'].map((name) =>
      carrier.carry(join(folder, name), one.server, patiently()),
    );
    const told = await Promise.allSettled(asked);
    const refused = told.filter(({ status }) => status === 'rejected');
    expect(refused).toHaveLength(2);
    for (const [at, outcome] of told.entries()) {
      if (outcome.status === 'fulfilled') continue;
      expect(outcome.reason).toMatchObject({ reason: 'PERMISSION_DENIED' });
      tally.count(`stream ${at} of one ticket`, outcome.reason.reason);
    }
    // That of the other migration is still good, for that migration.
    const { qemu } = await open(other.server);
    qemu.write(frame(Buffer.alloc(10)));
    for (const { header } of [one, other]) await stage.calls.abort(header, patiently());
    await stage.expectUnharmed();
  });

  it('is on record where the QEMU dies of it, and gets no other one', async () => {
    const { header, server } = await toRam();
    const at = { event: 'MIGRATION', status: 'active' };
    stage.hosts.launcher('beta').faults.add({ at, when: 'after', incoming: true, action: die });
    // That QEMU dies as soon as somebody connects, with or without a byte of RAM.
    const opened = open(server);
    await opened.then(
      ({ carriage, qemu }) => {
        qemu.write(frame(Buffer.alloc(64 * 1024, 0x66)));
        return carriage.done.catch(() => undefined);
      },
      () => undefined,
    );
    await vi.waitFor(async () => {
      const { events } = await stage.hosts.host('beta').client.hosts.listAuditEvents({});
      expect(events).toContainEqual(
        expect.objectContaining({
          action: 'QEMU_CRASHED_WHILE_RECEIVING',
          caller: 'host/mallory',
          subject: header.migrationId,
        }),
      );
    });
    const again = { ...header, attempt: 2 };
    const reason = await tally.refused('RAM once more', () =>
      stage.calls.acceptRam(again, 'stream', patiently()),
    );
    expect(reason).not.toBe('ACCEPTED');
    await stage.expectUnharmed();
  });

  it('takes no memory of the agent with RAM that never ends', async () => {
    const { header, server } = await toRam();
    const { qemu } = await open(server);
    const before = memoryMib();
    let most = 0;
    const chunk = frame(Buffer.alloc(256 * 1024, 0x66));
    await whileAnswering(stage.hosts.host('beta').client, async () => {
      for (let sent = 0; sent < 200 * MIB; sent += chunk.length) {
        if (!qemu.write(chunk)) await new Promise((resolve) => qemu.once('drain', resolve));
        most = Math.max(most, memoryMib() - before);
      }
    });
    expect(most).toBeLessThan(150);
    await stage.calls.abort(header, patiently());
    await stage.expectUnharmed();
  });
});

/** RAM as a fake QEMU sends it. */
function frame(payload: Buffer): Buffer {
  const header = Buffer.from(JSON.stringify({ ram: true }));
  const lengths = Buffer.alloc(8);
  lengths.writeUInt32BE(header.length, 0);
  lengths.writeUInt32BE(payload.length, 4);
  return Buffer.concat([lengths, header, payload]);
}

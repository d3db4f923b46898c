import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { PeerHeader } from '../../src/migration/peer.js';
import { patiently } from '../support/fake-agent.js';
import { die } from '../support/fake-qemu.js';
import { memoryMib, Tally, whileAnswering } from '../support/hostile.js';
import { LyingSource } from '../support/lying-source.js';

const MIB = 1024 ** 2;

const tally = new Tally('a source that lies in its RAM');
afterAll(() => tally.finish());

let stage: LyingSource;
beforeEach(async () => {
  stage = await LyingSource.start();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

describe('a source that lies in its RAM', () => {
  async function toRam(): Promise<{ header: PeerHeader; ticket: string }> {
    const header = await stage.prepare();
    await stage.calls.exportDisks(header, patiently());
    const { ticket } = await stage.calls.acceptRam(header, patiently());
    return { header, ticket };
  }

  it('opens one stream with one ticket, also where it asks twice at the same moment', async () => {
    const [one, other] = [await toRam(), await toRam()];
    const streams = await Promise.all(
      [one.ticket, one.ticket, one.ticket].map((ticket) =>
        stage.calls.openRam(ticket, patiently()),
      ),
    );
    const ends = streams.map(async (stream) => {
      for await (const _chunk of stream.incoming) return 'bytes';
      return 'end';
    });
    const told = ends.map((end) => end.catch(({ reason }) => reason));
    await vi.waitFor(async () => {
      const now = await Promise.all(told.map((end) => Promise.race([end, 'open'])));
      expect(now.filter((end) => end === 'PERMISSION_DENIED')).toHaveLength(2);
    });
    for (const [at, end] of told.entries()) {
      const reason = await Promise.race([end, undefined]);
      if (reason !== undefined) tally.count(`stream ${at} of one ticket`, reason);
    }
    // That of the other migration is still good, for that migration.
    const stream = await stage.calls.openRam(other.ticket, patiently());
    await stream.write(frame(Buffer.alloc(10)));
    for (const { header } of [one, other]) await stage.calls.abort(header, patiently());
    for (const each of [...streams, stream]) each.reset(new Error('over'));
    await stage.expectUnharmed();
  });

  it('is on record where the QEMU dies of it, and gets no other one', async () => {
    const { header, ticket } = await toRam();
    const at = { event: 'MIGRATION', status: 'active' };
    stage.hosts.launcher('beta').faults.add({ at, when: 'after', incoming: true, action: die });
    const stream = await stage.calls.openRam(ticket, patiently());
    const writing = (async () => {
      for (;;) await stream.write(frame(Buffer.alloc(64 * 1024, 0x66)));
    })();
    await expect(writing).rejects.toBeDefined();
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
      stage.calls.acceptRam(again, patiently()),
    );
    expect(reason).not.toBe('ACCEPTED');
    await stage.expectUnharmed();
  });

  it('takes no memory of the agent with RAM that never ends', async () => {
    const { header, ticket } = await toRam();
    const stream = await stage.calls.openRam(ticket, patiently());
    const before = memoryMib();
    let most = 0;
    const chunk = frame(Buffer.alloc(256 * 1024, 0x66));
    await whileAnswering(stage.hosts.host('beta').client, async () => {
      for (let sent = 0; sent < 200 * MIB; sent += chunk.length) {
        await stream.write(chunk);
        most = Math.max(most, memoryMib() - before);
      }
    });
    expect(most).toBeLessThan(150);
    await stage.calls.abort(header, patiently());
    stream.reset(new Error('over'));
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

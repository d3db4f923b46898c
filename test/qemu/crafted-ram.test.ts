import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Carrier } from '../../src/channel/types.js';
import { connectUnix } from '../../src/channel/unix-socket.js';
import { Migration_Transport } from '../../src/gen/drover/v1/migration.js';
import { LocalCarrier } from '../../src/rpc/carrier.js';
import { inheritOwner } from '../../src/util/foreign-files.js';
import { migrate } from '../support/fleet.js';
import { wrapped } from '../support/hostile.js';
import { RealFleet } from '../support/real-fleet.js';

/** What a source that lies makes of a piece of RAM, the first of which is number 0. */
type Forgery = (piece: Uint8Array, index: number) => Uint8Array;

/** Random, and the same in each run. */
function noise(bytes: number): Buffer {
  let state = 0x2545_f491;
  return Buffer.from(
    Uint8Array.from({ length: bytes }, () => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return state >>> 16;
    }),
  );
}

const FORGERIES: Readonly<Record<string, Forgery>> = {
  'noise instead of a stream': (piece) => noise(piece.length),
  'a header and noise': (piece, index) =>
    index === 0 ? Buffer.concat([piece.subarray(0, 64), noise(4096)]) : noise(piece.length),
  'flipped bits in every page': (piece, index) => {
    const forged = Buffer.from(piece);
    for (let at = index === 0 ? 512 : 0; at < forged.length; at += 997) {
      forged.writeUInt8(forged.readUInt8(at) ^ 0x40, at);
    }
    return forged;
  },
  'each piece twice': (piece) => Buffer.concat([piece, piece]),
};

/** Carries the streams of a host as they are, but for the RAM that leaves it. */
function forging(carrier: Carrier, forge: Forgery): Carrier {
  return wrapped(carrier, {
    carry: async (path, place, options) => {
      if (!path.endsWith('ram.sock')) return await carrier.carry(path, place, options);
      const onward = join(dirname(path), 'onward.sock');
      const carriage = await carrier.carry(onward, place, options);
      const forger = createServer({ allowHalfOpen: true }, (qemu) => {
        forger.close();
        void connectUnix(onward, options).then((stream) => forgeAll(qemu, stream, forge));
      });
      await new Promise<void>((resolve) => forger.listen(path, resolve));
      await inheritOwner(path);
      return carriage;
    },
  });
}

function forgeAll(qemu: Socket, stream: Socket, forge: Forgery): void {
  let index = 0;
  for (const one of [qemu, stream]) one.on('error', () => undefined);
  qemu.on('data', (piece) => stream.write(forge(piece, index++)));
  qemu.on('end', () => stream.end());
  stream.pipe(qemu);
  qemu.on('close', () => stream.destroy());
  stream.on('close', () => qemu.destroy());
}

/** From QEMU to QEMU nobody but QEMU has the key. */
const byStream = { transport: Migration_Transport.STREAM };

describe('a source that forges RAM', () => {
  let hosts: RealFleet;
  afterEach(() => hosts[Symbol.asyncDispose]());

  it.each(Object.entries(FORGERIES))(
    'gets nothing of a real QEMU but its end: %s',
    async (_what, forge) => {
      let lies = true;
      const honest: Forgery = (piece) => piece;
      hosts = await RealFleet.start(['alpha', 'beta'], {
        parts: (host) =>
          host === 'alpha'
            ? {
                carrier: (settings) =>
                  forging(new LocalCarrier(settings), (piece, index) =>
                    (lies ? forge : honest)(piece, index),
                  ),
              }
            : {},
      });
      const guest = await hosts.run('alpha', [{}]);
      const failed = await migrate(hosts.host('alpha'), guest.uuid, 'beta', undefined, byStream);
      expect(failed).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
      await guest.writes(30);
      await hosts.expectNothingOn('beta', guest.uuid);
      const { client } = hosts.host('beta');
      const { events } = await client.hosts.listAuditEvents({ subject: failed.migrationId });
      const [ended] = events.filter(({ action }) => action === 'MIGRATION_ENDED');
      expect(ended?.reason).toBe('VMSTATE_INCOMPATIBLE');

      lies = false;
      const next = await migrate(hosts.host('alpha'), guest.uuid, 'beta', undefined, byStream);
      expect(next.failure).toBeUndefined();
      guest.arrived('beta');
      await guest.writes(30);
      await guest.judge();
    },
  );
});

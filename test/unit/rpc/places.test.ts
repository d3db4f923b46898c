import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MessageFns } from '../../../src/gen/drover/v1/migration.js';
import {
  AcceptRamResponse,
  ExportDisksResponse,
  ProbeDataResponse,
} from '../../../src/gen/drover/v1/peer_service.js';
import {
  diskServerFromWire,
  diskServerToWire,
  probeFromWire,
  probeToWire,
  ramServerFromWire,
  ramServerToWire,
} from '../../../src/rpc/convert-places.js';

const INVALID = expect.objectContaining({ reason: 'REQUEST_INVALID' });

/** What arrives of a message. */
function sent<T>(type: MessageFns<T>, message: T): T {
  return type.decode(type.encode(message).finish());
}

const place = {
  address: '10.0.0.1',
  port: 49_500,
  pskIdentity: 'one',
  psk: Buffer.alloc(32, 1),
};
const wrong: readonly [string, unknown][] = [
  ['address', '/run/x.sock'],
  ['address', 'a,b=c'],
  ['address', ''],
  ['port', 0],
  ['port', 65_536],
  ['pskIdentity', 'a\nroot:00'],
  ['psk', Buffer.alloc(16)],
];

describe('a place that a peer names', () => {
  const disks = { ...place, exports: [{ diskId: 'root', exportName: 'root', ticket: '' }] };
  const ram = { ...place, ticket: 'T' };

  it.each([
    ...wrong,
    ['exports', [{ diskId: 'a', exportName: '../x', ticket: '' }]],
    ['exports', Array(33).fill({ diskId: 'a', exportName: 'b', ticket: '' })],
  ])('is no disk server with %s %j', (field, value) => {
    expect(() => diskServerFromWire(disks, 'direct', 'beta')).not.toThrow();
    const lie = { ...disks, [field as string]: value };
    expect(() => diskServerFromWire(lie, 'direct', 'beta')).toThrow(INVALID);
  });

  it.each([...wrong, ['ticket', ''], ['ticket', 'a b']])(
    'is none for RAM with %s %j',
    (field, value) => {
      expect(() => ramServerFromWire(ram, 'direct', 'beta')).not.toThrow();
      const lie = { ...ram, [field as string]: value };
      expect(() => ramServerFromWire(lie, 'direct', 'beta')).toThrow(INVALID);
    },
  );

  it.each(['', 'a b', 'x'.repeat(2 ** 20)])(
    'needs a ticket where bytes travel as a stream: %j',
    (ticket) => {
      const exports = [{ diskId: 'root', exportName: 'root', ticket }];
      expect(() => diskServerFromWire({ ...disks, exports }, 'stream', 'beta')).toThrow(INVALID);
      expect(() => ramServerFromWire({ ...ram, ticket }, 'stream', 'beta')).toThrow(INVALID);
      const probe = { address: '10.0.0.1', port: 1, nonce: ticket };
      expect(() => probeFromWire(probe)).toThrow(INVALID);
    },
  );

  it('is the same on the other side, key included', () => {
    const plain = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$/);
    const where = {
      host: fc.constant('beta'),
      address: fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()),
      port: fc.integer({ min: 1, max: 65_535 }),
      pskIdentity: plain,
      psk: fc.uint8Array({ minLength: 32, maxLength: 32 }),
    };
    const transport = fc.constantFrom('direct' as const, 'stream' as const);
    const exported = fc.record({ diskId: plain, exportName: plain, ticket: plain });
    const exports = fc.array(exported, { maxLength: 32 });
    const plainKey = <T extends { psk: Uint8Array }>(one: T) => ({
      ...one,
      psk: new Uint8Array(one.psk),
    });
    fc.assert(
      fc.property(fc.record({ ...where, transport, exports }), (given) => {
        const wire = sent(ExportDisksResponse, diskServerToWire(given));
        expect(plainKey(diskServerFromWire(wire, given.transport, 'beta'))).toEqual(given);
      }),
    );
    fc.assert(
      fc.property(fc.record({ ...where, transport, ticket: plain }), (given) => {
        const wire = sent(AcceptRamResponse, ramServerToWire(given));
        expect(plainKey(ramServerFromWire(wire, given.transport, 'beta'))).toEqual(given);
      }),
    );
    const probe = { address: '10.0.0.1', port: 49_501, nonce: 'n' };
    expect(probeFromWire(sent(ProbeDataResponse, probeToWire(probe)))).toEqual(probe);
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StreamRamRequest, StreamRamResponse } from '../../../src/gen/drover/v1/peer_service.js';
import { peerDefinition, type RamMessage } from '../../../src/rpc/ram-codec.js';

const { requestType, responseType } = peerDefinition.methods.streamRam;
const bytes = fc.uint8Array({ maxLength: 70_000 });

describe('the codec of StreamRam', () => {
  it('writes requests that the generated code reads', () => {
    fc.assert(
      fc.property(bytes, fc.string({ unit: 'grapheme' }), (data, ticket) => {
        expect(
          StreamRamRequest.decode(written(requestType, { type: 'data', data })).content,
        ).toEqual({ $case: 'data', value: Buffer.from(data) });
        expect(
          StreamRamRequest.decode(written(requestType, { type: 'ticket', ticket })).content,
        ).toEqual({ $case: 'ticket', value: ticket });
      }),
    );
    expect(StreamRamRequest.decode(written(requestType, { type: 'end' })).content).toEqual({
      $case: 'end',
      value: true,
    });
  });

  it('reads requests that the generated code writes', () => {
    fc.assert(
      fc.property(bytes, fc.string({ unit: 'grapheme' }), (data, ticket) => {
        const ofData = { $case: 'data', value: Buffer.from(data) } as const;
        expect(requestType.decode(generated(StreamRamRequest, { content: ofData }))).toEqual({
          type: 'data',
          data: Buffer.from(data),
        });
        const ofTicket = { $case: 'ticket', value: ticket } as const;
        expect(requestType.decode(generated(StreamRamRequest, { content: ofTicket }))).toEqual({
          type: 'ticket',
          ticket,
        });
      }),
    );
  });

  it('agrees with the generated code on responses', () => {
    fc.assert(
      fc.property(bytes, (data) => {
        const ofData = { $case: 'data', value: Buffer.from(data) } as const;
        expect(responseType.decode(generated(StreamRamResponse, { content: ofData }))).toEqual({
          type: 'data',
          data: Buffer.from(data),
        });
        expect(
          StreamRamResponse.decode(written(responseType, { type: 'data', data })).content,
        ).toEqual(ofData);
      }),
    );
    const end = { $case: 'end', value: true } as const;
    expect(responseType.decode(generated(StreamRamResponse, { content: end }))).toEqual({
      type: 'end',
    });
  });

  it('skips fields of a newer version, and does not copy the data it reads', () => {
    const known = StreamRamRequest.encode({
      content: { $case: 'data', value: Buffer.from('ram') },
    });
    // Field 15, a varint.
    const message = Buffer.concat([Buffer.from([0x78, 0x2a]), known.finish()]);
    const read = requestType.decode(message);
    expect(read).toMatchObject({ type: 'data' });
    expect(read.type === 'data' && read.data.buffer).toBe(message.buffer);
    expect(requestType.decode(Buffer.from([0x78, 0x2a]))).toEqual({ type: 'unknown' });
    expect(requestType.decode(Buffer.alloc(0))).toEqual({ type: 'unknown' });
  });

  it('throws on a message that is cut off', () => {
    const whole = Buffer.from(written(requestType, { type: 'data', data: Buffer.alloc(100) }));
    expect(() => requestType.decode(whole.subarray(0, 50))).toThrow(RangeError);
  });
});

/** What arrives from an agent that uses the generated code: gRPC hands messages on as Buffers. */
function generated<T>(codec: { encode(message: T): { finish(): Uint8Array } }, message: T): Buffer {
  return Buffer.from(codec.encode(message).finish());
}

/** What nice-grpc hands on: it makes a Buffer of what the codec answers. */
function written(
  type: { encode(message: RamMessage): { finish(): Uint8Array } },
  message: RamMessage,
): Uint8Array {
  return Buffer.from(type.encode(message).finish());
}

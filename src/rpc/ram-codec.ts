import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { PeerServiceDefinition } from '../gen/drover/v1/peer_service.js';
import { strictPrepareRequest } from './prepare-codec.js';

/*
 * The messages of StreamRam, encoded by hand. The generated code copies every chunk four times more
 * than it must, and the RAM of every guest goes through here. A test holds it against the generated
 * code, both ways.
 */

/** One message of StreamRam, in either direction. */
export type RamMessage =
  | { readonly type: 'ticket'; readonly ticket: string }
  | { readonly type: 'data'; readonly data: Uint8Array }
  | { readonly type: 'end' }
  /** A message with nothing in it that this version knows. */
  | { readonly type: 'unknown' };

/** The field numbers of one direction. */
interface Fields {
  readonly ticket?: number;
  readonly data: number;
  readonly end: number;
}

const REQUEST: Fields = { ticket: 1, data: 2, end: 3 };
const RESPONSE: Fields = { data: 1, end: 2 };

/** PeerService with this codec for StreamRam. Server and client must both be made from it. */
export const peerDefinition = {
  ...PeerServiceDefinition,
  methods: {
    ...PeerServiceDefinition.methods,
    prepare: { ...PeerServiceDefinition.methods.prepare, requestType: strictPrepareRequest },
    streamRam: {
      ...PeerServiceDefinition.methods.streamRam,
      requestType: messageType(REQUEST),
      responseType: messageType(RESPONSE),
    },
  },
} as const;

const { fullName, methods } = peerDefinition;

/** The paths of the two calls that servers treat differently from others. */
export const STREAM_RAM_PATH = `/${fullName}/${methods.streamRam.name}`;
export const AWAIT_LOADED_PATH = `/${fullName}/${methods.awaitLoaded.name}`;

/** Without these no handover comes to its end. */
export const HANDOVER_PATHS: ReadonlySet<string> = new Set(
  [methods.commit, methods.revoke, methods.abort, methods.queryMigration, methods.sourceGone].map(
    ({ name }) => `/${fullName}/${name}`,
  ),
);

function messageType(fields: Fields) {
  return {
    encode: (message: RamMessage) => ({ finish: () => encode(message, fields) }),
    decode: (bytes: Uint8Array) => decode(bytes, fields),
  };
}

function encode(message: RamMessage, fields: Fields): Uint8Array {
  switch (message.type) {
    case 'data':
      return encodeData(message.data, fields.data);
    case 'ticket':
      return new BinaryWriter()
        .tag(fields.ticket ?? 0, WireType.LengthDelimited)
        .string(message.ticket)
        .finish();
    case 'end':
      return new BinaryWriter().tag(fields.end, WireType.Varint).bool(true).finish();
    case 'unknown':
      return new Uint8Array(0);
  }
}

// The data of the answer lies in `bytes`. Fields that this version does not know are skipped.
function decode(bytes: Uint8Array, fields: Fields): RamMessage {
  const reader = new BinaryReader(bytes);
  let message: RamMessage = { type: 'unknown' };
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === fields.data && wireType === WireType.LengthDelimited) {
      message = { type: 'data', data: reader.bytes() };
    } else if (field === fields.ticket && wireType === WireType.LengthDelimited) {
      message = { type: 'ticket', ticket: reader.string() };
    } else if (field === fields.end && wireType === WireType.Varint) {
      message = reader.bool() ? { type: 'end' } : { type: 'unknown' };
    } else {
      reader.skip(wireType, field);
    }
  }
  return message;
}

// nice-grpc makes a Buffer of what it gets, which copies all but an ArrayBuffer.
function encodeData(data: Uint8Array, field: number): Uint8Array {
  const head = new BinaryWriter()
    .tag(field, WireType.LengthDelimited)
    .uint32(data.byteLength)
    .finish();
  const whole = Buffer.allocUnsafeSlow(head.byteLength + data.byteLength);
  whole.set(head);
  whole.set(data, head.byteLength);
  return whole.buffer as unknown as Uint8Array;
}

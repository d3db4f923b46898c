import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import {
  LaunchSpec_CpuFeaturesEntry,
  LaunchSpec_CpuPropertiesEntry,
  LaunchSpec_PciSlotsEntry,
} from '../gen/drover/v1/launch_spec.js';
import { PrepareRequest } from '../gen/drover/v1/peer_service.js';

/*
 * The generated code drops two things of a map in silence: fields of an entry that it does not
 * know, and the key `__proto__`. What a peer wants started must be refused for either, so that both
 * are handed on as fields of the launch spec that this version does not know.
 */

const LAUNCH_SPEC = 2;

/** The maps of a launch spec by the number of their field. */
const ENTRIES = {
  3: LaunchSpec_CpuFeaturesEntry,
  4: LaunchSpec_PciSlotsEntry,
  8: LaunchSpec_CpuPropertiesEntry,
} as const;

/** PrepareRequest, decoded without losing anything. */
export const strictPrepareRequest: typeof PrepareRequest = {
  ...PrepareRequest,
  decode(input, length) {
    if (input instanceof BinaryReader) return PrepareRequest.decode(input, length);
    const request = PrepareRequest.decode(input);
    const { launchSpec } = request;
    if (!launchSpec) return request;
    const lost: Record<number, Uint8Array[]> = {};
    for (const [field, bytes] of parts(input)) {
      if (field === LAUNCH_SPEC) Object.assign(lost, findLost(bytes));
    }
    const _unknownFields = { ...launchSpec._unknownFields, ...lost };
    return { ...request, launchSpec: { ...launchSpec, _unknownFields } };
  },
};

function findLost(launchSpec: Uint8Array): Record<number, Uint8Array[]> {
  const lost: Record<number, Uint8Array[]> = {};
  for (const [field, bytes] of parts(launchSpec)) {
    const entry = ENTRIES[field as keyof typeof ENTRIES]?.decode(bytes);
    if (!entry) continue;
    const unknown = Object.keys(entry._unknownFields ?? {}).length > 0;
    if (unknown || entry.key === '__proto__') lost[(field << 3) | WireType.LengthDelimited] = [];
  }
  return lost;
}

/** The fields of a message that are messages, texts or bytes. */
function* parts(message: Uint8Array): Generator<readonly [field: number, bytes: Uint8Array]> {
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (wireType === WireType.LengthDelimited) yield [field, reader.bytes()];
    else reader.skip(wireType, field);
  }
}

import fc from 'fast-check';
import { FRAME, FrameReader, frame } from '../../src/channel/frames.js';
import { said } from '../../src/channel/socket-join.js';
import { checkIncomingData } from '../../src/domain/incoming-data.js';
import { launchArguments } from '../../src/domain/launch-arguments.js';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { Refusals } from '../../src/domain/refusals.js';
import { LaunchSpec as WireLaunchSpec } from '../../src/gen/drover/v1/launch_spec.js';
import { Ownership as WireOwnership } from '../../src/gen/drover/v1/ownership.js';
import {
  AcceptRamResponse,
  ExportDisksResponse,
  PeerState_Record,
  ProbeDataResponse,
  PeerHeader as WirePeerHeader,
  PeerState as WirePeerState,
} from '../../src/gen/drover/v1/peer_service.js';
import { encodeMessage, type JsonObject, MessageDecoder } from '../../src/qmp/codec.js';
import { QmpProtocolError } from '../../src/qmp/errors.js';
import { launchSpecFromWire, launchSpecToWire } from '../../src/rpc/convert-launch-spec.js';
import { statementsFromWire } from '../../src/rpc/convert-ownership.js';
import { headerFromWire, headerToWire, peerStateFromWire } from '../../src/rpc/convert-peer.js';
import {
  diskServerFromWire,
  probeFromWire,
  ramServerFromWire,
} from '../../src/rpc/convert-places.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { REASONS } from '../../src/util/reasons.js';
import { nearCorpus } from './mutations.js';
import { HOSTILE_STRINGS, launchSpec } from './samples.js';
import { must, target, unlessRefused } from './target.js';

const isReasoned = (error: unknown) => error instanceof ReasonedError;

/** gRPC turns whatever a decoder throws into a status; what must not happen is an overflow. */
const isMalformed = (error: unknown) =>
  error instanceof Error && !/call stack|array length|out of memory/i.test(error.message);

const qmpCorpus = [
  {
    QMP: {
      version: { qemu: { micro: 2, minor: 0, major: 10 }, package: '' },
      capabilities: ['oob'],
    },
  },
  { return: {}, id: 1 },
  { error: { class: 'GenericError', desc: 'no' }, id: 2 },
  {
    timestamp: { seconds: 1, microseconds: 2 },
    event: 'STOP',
    data: { a: [1, 2.5, null, 'ü\n"'] },
  },
].map((message) => Buffer.from(encodeMessage(message)));

const qmpWords = [
  ...[
    '\n',
    '\r\n',
    '\\u005f_proto__',
    '"__proto__":',
    '"\\u0000"',
    '[[[[[[[[[[[[',
    '{"a":',
    '1e999',
  ],
  ...['"', '\\', '\\"', '\u2028', Buffer.of(0xc3), Buffer.of(0xed, 0xa0, 0x80), '-', 'nul', '{}\n'],
  ...['{"a":'.repeat(199), '['.repeat(250), '{"return":1}\n', '"constructor":{"prototype":{}}'],
];

/** QEMU's messages, cut anywhere. */
export const qmp = target({
  name: 'qmp',
  reads: 'QMP messages in chunks',
  inputs: fc.tuple(
    nearCorpus([...qmpCorpus, Buffer.concat(qmpCorpus)], qmpWords),
    fc.array(fc.nat(40), { maxLength: 8 }),
  ),
  check([bytes, cuts]) {
    const whole = decodeAll(bytes, [bytes.length]);
    const cut = decodeAll(bytes, cuts);
    must(whole.refused === cut.refused, 'it is refused however it is cut, or never');
    must(isSame(whole.messages, cut.messages), 'the messages are the same however it is cut');
    must(({} as { a?: unknown }).a === undefined, 'no prototype was changed');
  },
});

function decodeAll(bytes: Buffer, cuts: readonly number[]) {
  const decoder = new MessageDecoder(4096);
  const messages: JsonObject[] = [];
  let start = 0;
  for (const cut of [...cuts, bytes.length]) {
    const chunk = bytes.subarray(start, start + cut);
    const found = unlessRefused(
      () => decoder.push(chunk),
      (error) => error instanceof QmpProtocolError,
    );
    if (!found) return { refused: true, messages: [] };
    messages.push(...found);
    start += cut;
  }
  return { refused: false, messages };
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

const launchBytes = Buffer.from(WireLaunchSpec.encode(launchSpecToWire(launchSpec)).finish());
const launchWords = [
  ...HOSTILE_STRINGS.filter((text) => text.length < 1000),
  ...[Buffer.of(0x0a), Buffer.of(0x1a, 4, 0x0a, 0, 0x10, 1), Buffer.of(0xf8, 0x07, 1)],
  ...[Buffer.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f), Buffer.of(0x3a, 0), Buffer.of(0x0b)],
  Buffer.from('\x1a\x0d\x0a\x09__proto__\x10\x01', 'latin1'),
  ...[
    Buffer.alloc(10, 0xff),
    Buffer.concat([Buffer.of(0x10), Buffer.alloc(8, 0xff), Buffer.of(1)]),
  ],
];

const isOption = (argument: string, index: number, all: readonly string[]) =>
  /^-[a-z]/.test(argument) &&
  all[index - 1] !== '-append' &&
  // How many of these there are is the spec's to say.
  !['-device', '-blockdev', '-netdev', '-object', '-chardev', '-append'].includes(argument);

/** What the destination would start. */
function argumentsOf({ spec, cpuModel, cpuFeatures, cpuProperties, pciSlots }: LaunchSpec) {
  const cpu = { model: cpuModel, features: cpuFeatures, properties: cpuProperties };
  const images = spec.disks.map(
    ({ id, format }) => [id, { driver: 'file' as const, path: '/pool/own', format }] as const,
  );
  const places = {
    images: Object.fromEntries(images),
    kernel: { path: '/boot/linux', initrdPath: undefined },
    serialPath: '/state/serial.log',
    taps: Object.fromEntries(spec.nics.map(({ id }) => [id, 'drv0'])),
  };
  return launchArguments({ spec, cpu, pciSlots }, places, 'incoming');
}

const honestOptions = argumentsOf(launchSpec).filter(isOption);

type FieldChange = readonly [at: number, value: unknown];

const wireValue = fc.oneof(
  fc.constantFrom<unknown>(...HOSTILE_STRINGS.filter((text) => text.length < 1000)),
  fc.constantFrom<unknown>(0, 1, 2 ** 31, 2 ** 53 - 1, true, false),
  fc.string({ unit: 'binary', maxLength: 40 }),
);

/** A sound launch spec in which fields of the right type hold other values. */
const changedLaunchSpec = fc
  .array(fc.tuple(fc.nat(1000), wireValue), { minLength: 1, maxLength: 3 })
  .map((changes: readonly FieldChange[]) => {
    const wire = WireLaunchSpec.decode(launchBytes);
    for (const [at, value] of changes) changeLeaf(wire, at, value);
    return wire;
  });

function changeLeaf(root: object, at: number, value: unknown): void {
  const leaves: [object, string][] = [];
  const walk = (node: object) => {
    for (const [key, child] of Object.entries(node)) {
      if (typeof child === 'object' && child !== null) walk(child);
      else if (typeof child === typeof value) leaves.push([node, key]);
    }
  };
  walk(root);
  const leaf = leaves[at % (leaves.length || 1)];
  if (leaf) Reflect.set(leaf[0], leaf[1], value);
}

/** What a peer says the destination should start: bytes, or messages of the right shape. */
export const launchSpecTarget = target({
  name: 'launch-spec',
  reads: 'launch specs',
  inputs: fc.oneof<fc.Arbitrary<Buffer | WireLaunchSpec>[]>(
    nearCorpus([launchBytes], launchWords),
    changedLaunchSpec,
  ),
  check(input) {
    const wire = Buffer.isBuffer(input)
      ? unlessRefused(() => WireLaunchSpec.decode(input), isMalformed)
      : input;
    if (!wire) return;
    const taken = unlessRefused(() => launchSpecFromWire(wire), isReasoned);
    if (!taken) return;
    const bytes = WireLaunchSpec.encode(launchSpecToWire(taken)).finish();
    const again = launchSpecFromWire(WireLaunchSpec.decode(bytes));
    must(isSame(taken, again), 'what was taken can be said again');
    const refusals = new Refusals();
    const spec = checkIncomingData(taken, refusals);
    if (!spec || !refusals.empty) return;
    const argv = argumentsOf(taken);
    must(!argv.some((one) => /[\0\n\r]/.test(one)), 'no argument has a line end');
    must(isSame(argv.filter(isOption), honestOptions), 'the options are those of our templates');
  },
});

const frameCorpus = [
  frame(FRAME.ready),
  frame(FRAME.alive),
  Buffer.from('0000000568656c6c6f', 'hex'),
  frame(FRAME.end),
  frame(FRAME.broken, 'STALLED It took too long.'),
];

/** What comes through a data door, cut anywhere. */
export const door = target({
  name: 'door',
  reads: 'frames of streams between agents',
  inputs: fc.tuple(
    nearCorpus(
      [...frameCorpus, Buffer.concat(frameCorpus)],
      [
        Buffer.of(0, 0xff, 0xff, 0xff),
        Buffer.of(3, 0, 4, 1),
        Buffer.of(9),
        'PEER_LOST ',
        '\u001b[',
      ],
    ),
    fc.array(fc.nat(40), { maxLength: 8 }),
  ),
  check([bytes, cuts]) {
    const whole = readFrames(bytes, []);
    must(isSame(whole, readFrames(bytes, cuts)), 'it says the same however it is cut');
    must(whole.data.length <= bytes.length, 'no more data comes out than went in');
    const { reason, message } = said(whole.text);
    must(!/[\p{Cc}\p{Zl}\p{Zp}]/u.test(message), 'a reason is one plain line');
    must(Object.hasOwn(REASONS, reason), 'a reason is one of ours');
    must(!whole.heard.slice(0, -1).includes('invalid'), 'nothing is read after what is no frame');
  },
});

function readFrames(bytes: Buffer, cuts: readonly number[]) {
  const heard: string[] = [];
  let [data, text, start] = ['', '', 0];
  const hear = (word: string) => () => void heard.push(word);
  const reader = new FrameReader({
    data: (from, to) => {
      data += bytes.toString('latin1', from, to);
    },
    end: hear('end'),
    ready: hear('ready'),
    invalid: hear('invalid'),
    broken: (why) => {
      heard.push('broken');
      text = why;
    },
  });
  for (const cut of [...cuts, bytes.length]) {
    const end = Math.min(bytes.length, start + cut);
    reader.read(bytes, start, end);
    start = end;
  }
  return { heard, data, text };
}

const header = headerToWire({
  migrationId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11',
  attempt: 1,
  domainUuid: '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22',
  epoch: 1,
  generation: 1,
  sourceHost: 'a',
  destinationHost: 'b',
  sourceJournalId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b12',
  destinationJournalId: '',
});

const peerCorpus: readonly Uint8Array[] = [
  WirePeerHeader.encode(header).finish(),
  WirePeerState.encode(
    WirePeerState.fromPartial({
      record: PeerState_Record.COMMITTED,
      journalId: 'x',
      failure: { reason: 'NO_MEMORY' },
    }),
  ).finish(),
  WireOwnership.encode(
    WireOwnership.fromPartial({
      domainUuid: 'x',
      since: new Date(0),
      statements: [{ host: 'a', known: true, answered: true, saidTime: new Date(1) }],
    }),
  ).finish(),
  ExportDisksResponse.encode(
    ExportDisksResponse.fromPartial({
      address: '10.0.0.1',
      port: 49500,
      pskIdentity: 'drover',
      psk: Buffer.alloc(32, 1),
      exports: [{ diskId: 'root', exportName: 'root' }],
    }),
  ).finish(),
];

/** What else peers say: headers, states, ownerships, where disks are to go. */
export const peerMessages = target({
  name: 'peer',
  reads: "peers' other messages",
  inputs: nearCorpus(peerCorpus, [
    ...HOSTILE_STRINGS.filter((text) => text.length < 1000),
    Buffer.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f),
    Buffer.concat([Buffer.of(0x08), Buffer.alloc(9, 0xff), Buffer.of(1)]),
  ]),
  check(bytes) {
    const read = <Wire>(decode: (input: Uint8Array) => Wire, convert: (wire: Wire) => unknown) => {
      const wire = unlessRefused(() => decode(bytes), isMalformed);
      if (wire) unlessRefused(() => convert(wire), isReasoned);
    };
    read(WirePeerHeader.decode, headerFromWire);
    read(WirePeerState.decode, peerStateFromWire);
    read(WireOwnership.decode, statementsFromWire);
    for (const transport of ['direct', 'stream'] as const) {
      read(ExportDisksResponse.decode, (wire) => diskServerFromWire(wire, transport, 'beta'));
      read(AcceptRamResponse.decode, (wire) => ramServerFromWire(wire, transport, 'beta'));
    }
    read(ProbeDataResponse.decode, probeFromWire);
  },
});

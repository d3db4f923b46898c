import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Domain } from '../../../src/gen/drover/v1/domain.js';
import { Failure as WireFailure } from '../../../src/gen/drover/v1/failure.js';
import { Host, Peer } from '../../../src/gen/drover/v1/host.js';
import { LaunchSpec as WireLaunchSpec } from '../../../src/gen/drover/v1/launch_spec.js';
import { Migration as WireMigration } from '../../../src/gen/drover/v1/migration.js';
import {
  AwaitLoadedResponse,
  CommitResponse,
  PeerHeader as WirePeerHeader,
  PeerState as WirePeerState,
} from '../../../src/gen/drover/v1/peer_service.js';
import type { Failure } from '../../../src/migration/errors.js';
import type { HandoverRecord } from '../../../src/migration/handover-types.js';
import type { CommitOutcome } from '../../../src/migration/peer.js';
import { PHASES, type Phase } from '../../../src/migration/phase.js';
import { domainToWire, hostToWire, peerToWire } from '../../../src/rpc/convert-host.js';
import { launchSpecFromWire, launchSpecToWire } from '../../../src/rpc/convert-launch-spec.js';
import {
  failureFromWire,
  failureToWire,
  migrationToWire,
} from '../../../src/rpc/convert-migration.js';
import {
  commitOutcomeFromWire,
  commitOutcomeToWire,
  headerFromWire,
  headerToWire,
  journalIdFromWire,
  peerStateFromWire,
  peerStateToWire,
  voteFromWire,
  voteToWire,
} from '../../../src/rpc/convert-peer.js';
import { uint32, uint64 } from '../../../src/rpc/whole-number.js';
import { parseDomainSpec } from '../../../src/spec/domain-spec.js';
import { REASONS, type Reason } from '../../../src/util/reasons.js';
import { fakeMigration } from '../../support/fake-migration.js';

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** Through bytes, as over the network. */
const sent = <T>(codec: Codec<T>, message: T): T => codec.decode(codec.encode(message).finish());

/** Text without anything that a terminal would obey. */
const text = fc
  .string({ unit: 'grapheme', maxLength: 20 })
  .filter((value) => !/[\p{C}\p{Zl}\p{Zp}]/u.test(value));
const journalId = fc.stringMatching(/^[A-Za-z0-9-]{0,64}$/);
/** Of an epoch or a generation. */
const rankNumber = fc.nat(2 ** 48);
const whole = fc.maxSafeNat();
const uuid = fc.uuid();
/** The generated code drops the one key that could change an object's prototype. */
const key = fc.string({ minLength: 1, maxLength: 9 }).filter((name) => name !== '__proto__');
const map = <T>(value: fc.Arbitrary<T>) => fc.dictionary(key, value, { noNullPrototype: true });
/** A name of a device or of a CPU's feature. */
const plain = fc.stringMatching(/^[a-z][A-Za-z0-9_-]{0,19}$/);
const mapOf = <T>(value: fc.Arbitrary<T>) =>
  fc.dictionary(plain, value, { noNullPrototype: true, maxKeys: 32 });
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
const anyPhase = fc.constantFrom(...(Object.keys(PHASES) as Phase[]));

const failure: fc.Arbitrary<Failure> = fc.record({
  reason: fc.constantFrom(...(Object.keys(REASONS) as Reason[])),
  message: text,
  side: maybe(fc.constantFrom('source' as const, 'destination' as const)),
  phase: maybe(anyPhase),
  hint: text,
  retryable: fc.boolean(),
  metadata: map(text),
});

const RECORDS = {
  NONE: 0,
  STARTED: 0,
  COMMITTED: 0,
  RECLAIMED: 0,
  DONE: 0,
  ABORTED: 0,
  PREPARED: 0,
  LOADED: 0,
  OWNED: 0,
  RUNNING: 0,
  DST_PREPARED: 0,
  SWITCHING: 0,
  SOURCE_GONE: 0,
  SUPERSEDED: 0,
} satisfies Record<HandoverRecord | 'NONE', number>;

const spec = parseDomainSpec({
  name: 'web',
  uuid: '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22',
  memoryBytes: 64 * 1024 ** 2,
  accelerator: 'tcg',
  disks: [
    { id: 'root', sizeBytes: 1024 ** 2, format: 'qcow2', discard: false },
    { id: 'data', sizeBytes: 4096, bus: 'virtio-scsi', shared: true },
  ],
  nics: [{ id: 'lan', mac: '52:54:00:12:34:56' }],
  serial: { type: 'file' },
  rng: true,
});

describe('what agents tell each other', () => {
  it('is the same header on the other side', () => {
    const header = fc.record({
      migrationId: uuid,
      attempt: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
      domainUuid: uuid,
      epoch: rankNumber,
      generation: rankNumber,
      sourceHost: fc.constant('host-a'),
      destinationHost: fc.constant('host-b'),
      sourceJournalId: journalId,
      destinationJournalId: journalId,
    });
    fc.assert(
      fc.property(header, (given) => {
        expect(headerFromWire(sent(WirePeerHeader, headerToWire(given)))).toEqual(given);
      }),
    );
  });

  it.each([
    ['migrationId', 'nonsense'],
    ['domainUuid', ''],
    ['attempt', 0],
    ['sourceHost', ''],
    ['destinationHost', ''],
    ['sourceJournalId', 'x'.repeat(65)],
    ['sourceJournalId', '../journal'],
    ['destinationJournalId', 'a\nb'],
    ['epoch', Number.MAX_SAFE_INTEGER],
    ['generation', Number.MAX_SAFE_INTEGER],
  ])('is refused with a header whose %s is %j', (field, value) => {
    const good = headerToWire({
      migrationId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11',
      attempt: 1,
      domainUuid: '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22',
      epoch: 1,
      generation: 1,
      sourceHost: 'a',
      destinationHost: 'b',
      sourceJournalId: '',
      destinationJournalId: '',
    });
    expect(() => headerFromWire(good)).not.toThrow();
    expect(() => headerFromWire({ ...good, [field]: value })).toThrow(
      expect.objectContaining({ reason: 'REQUEST_INVALID' }),
    );
  });

  it('is the same launch spec', () => {
    const launchSpec = fc.record({
      spec: fc.constant(spec),
      cpuModel: plain,
      cpuFeatures: mapOf(fc.boolean()),
      cpuProperties: mapOf(fc.stringMatching(/^[\x20-\x2b\x2d-\x7e]{1,128}$/)),
      pciSlots: mapOf(fc.nat(31)),
      kernelSha256: fc.stringMatching(/^([0-9a-f]{64}(\+[0-9a-f]{64})?)?$/),
      qemuVersion: fc.stringMatching(/^\d{1,4}(\.\d{1,4}){2}$/),
      disks: fc.array(
        fc.record({
          diskId: plain,
          sizeBytes: fc.maxSafeNat().map((bytes) => bytes % 2 ** 46),
          allocatedBytes: fc.maxSafeNat().map((bytes) => bytes % 2 ** 50),
          mirrored: fc.boolean(),
          imageSha256: fc.stringMatching(/^([0-9a-f]{64})?$/),
        }),
        { maxLength: 32 },
      ),
    });
    fc.assert(
      fc.property(launchSpec, (given) => {
        expect(launchSpecFromWire(sent(WireLaunchSpec, launchSpecToWire(given)))).toEqual(given);
      }),
    );
  });

  it('is no launch spec when it holds what this version does not know, or nothing', () => {
    const wire = launchSpecToWire({
      spec,
      cpuModel: '',
      cpuFeatures: {},
      cpuProperties: {},
      pciSlots: {},
      kernelSha256: '',
      qemuVersion: '',
      disks: [],
    });
    // Field 1000, a varint.
    const newer = Buffer.concat([
      WireLaunchSpec.encode(wire).finish(),
      Buffer.from([0xc0, 0x3e, 0x01]),
    ]);
    expect(() => launchSpecFromWire(WireLaunchSpec.decode(newer))).toThrow(
      expect.objectContaining({ reason: 'VERSION_SKEW', message: expect.stringMatching(/1000/) }),
    );
    expect(() => launchSpecFromWire({ ...wire, spec: { ...wire.spec!, name: '../x' } })).toThrow(
      expect.objectContaining({ reason: 'SPEC_INVALID' }),
    );
    for (const empty of [undefined, { ...wire, spec: undefined }]) {
      expect(() => launchSpecFromWire(empty)).toThrow(
        expect.objectContaining({ reason: 'REQUEST_INVALID' }),
      );
    }
  });

  it('is the same state, outcome and vote', () => {
    const record = fc.constantFrom(...(Object.keys(RECORDS) as (keyof typeof RECORDS)[]));
    const rank = fc.record({ epoch: whole, generation: whole });
    const state = fc.record({ record, rank, journalId, failure: maybe(failure) });
    const outcome: fc.Arbitrary<CommitOutcome> = fc.oneof(
      fc.record({
        outcome: fc.constant('RUNNING' as const),
        cost: fc.record({ journalUs: whole, handledUs: whole }),
      }),
      fc.constant({ outcome: 'OWNED_LOST' as const }),
      fc.record({ outcome: fc.constant('REFUSED' as const), failure: maybe(failure) }),
    );
    const vote = fc.record({ journalId, allocatedBytes: map(whole) });
    fc.assert(
      fc.property(state, outcome, vote, (aState, anOutcome, aVote) => {
        expect(peerStateFromWire(sent(WirePeerState, peerStateToWire(aState)))).toEqual(aState);
        expect(commitOutcomeFromWire(sent(CommitResponse, commitOutcomeToWire(anOutcome)))).toEqual(
          anOutcome,
        );
        expect(voteFromWire(sent(AwaitLoadedResponse, voteToWire(aVote)))).toEqual(aVote);
      }),
    );
  });

  it('is never guessed where this version does not know the word', () => {
    const skew = expect.objectContaining({ reason: 'VERSION_SKEW' });
    const newerState = WirePeerState.decode(Buffer.from([0x08, 0x63]));
    expect(() => peerStateFromWire(newerState)).toThrow(skew);
    expect(() => peerStateFromWire(undefined)).toThrow(skew);
    for (const bytes of [[0x08, 0x63], []]) {
      const response = CommitResponse.decode(Buffer.from(bytes));
      expect(() => commitOutcomeFromWire(response)).toThrow(skew);
    }
  });

  it('is short and one line of text where it is for people, whatever a peer says', () => {
    const long = `\u001b[2J\r\nall is well\u202e${'x'.repeat(1e5)}`;
    const facts = Array.from({ length: 1_000 }, (_, i) => [`${i}${long}`, long] as const);
    const failure = failureFromWire(
      WireFailure.fromPartial({
        reason: long,
        message: long,
        hint: long,
        metadata: Object.fromEntries(facts),
      }),
    );
    const told = JSON.stringify(failure);
    expect(told.length).toBeLessThan(20_000);
    expect(told).not.toMatch(/\\u001b|\\r|\\n|\u202e/);
    expect(failure.message).toMatch(/^\?\[2J all is well\?x/);
  });

  it.each([
    ['a journal', () => voteFromWire({ journalId: 'x'.repeat(65), allocatedBytes: {} })],
    ['a journal', () => journalIdFromWire('a b')],
  ])('is refused where it is what is no name of %s', (_what, read) => {
    expect(read).toThrow(expect.objectContaining({ reason: 'REQUEST_INVALID' }));
  });

  it('is the same failure, and INTERNAL where only a newer peer knows the reason', () => {
    fc.assert(
      fc.property(failure, (given) => {
        expect(failureFromWire(sent(WireFailure, failureToWire(given)))).toEqual(given);
      }),
    );
    expect(
      failureFromWire(WireFailure.fromPartial({ reason: 'TOO_WET', message: 'x', phase: 'rain' })),
    ).toMatchObject({ reason: 'INTERNAL', message: 'x (TOO_WET)', phase: undefined });
  });
});

describe('what callers are told', () => {
  it('shows a migration with every figure, rounded where the wire wants whole numbers', () => {
    const migration = fakeMigration({
      phaseTimes: [{ phase: 'prepare', startTime: new Date(1000), endTime: new Date(2000) }],
      disks: [
        {
          diskId: 'root',
          totalBytes: 10,
          transferredBytes: 4,
          remainingBytes: 6,
          bytesPerSecond: 1.6,
          ready: true,
        },
      ],
      ram: {
        totalBytes: 100,
        transferredBytes: 50,
        remainingBytes: 50,
        bytesPerSecond: 12.4,
        dirtyBytesPerSecond: Number.NaN,
        pass: 2,
        expectedDowntimeMs: Number.POSITIVE_INFINITY,
        downtimeMs: undefined,
      },
      failure: {
        reason: 'NO_PORT',
        message: 'x',
        side: 'destination',
        phase: 'mirror',
        hint: 'y',
        retryable: true,
        metadata: {},
      },
    });
    expect(sent(WireMigration, migrationToWire(migration))).toMatchObject({
      state: 'STATE_RUNNING',
      phase: 'PHASE_MIRROR',
      runningOn: 'RUNNING_ON_SOURCE',
      createTime: new Date(0),
      endTime: undefined,
      phaseTimes: [{ phase: 'PHASE_PREPARE', endTime: new Date(2000) }],
      disks: [{ diskId: 'root', remainingBytes: 6, bytesPerS: 2, ready: true }],
      ram: { bytesPerS: 12, dirtyBytesPerS: 0, pass: 2, expectedDowntimeMs: 2 ** 32 - 1 },
      failure: { reason: 'NO_PORT', side: 'SIDE_DESTINATION', phase: 'mirror' },
    });
  });

  it('shows the summary of a migration that has ended well', () => {
    const downtime = {
      totalUs: 15,
      settleUs: 1,
      ramUs: 2,
      loadUs: 3,
      commitUs: 4,
      resumeUs: 5,
      safetyUs: 6,
    };
    const disk = {
      diskId: 'root',
      sizeBytes: 5,
      transferredBytes: 4,
      sourceAllocatedBytes: 3,
      destinationAllocatedBytes: 2,
    };
    const summary = {
      totalTimeMs: 9.6,
      downtime,
      qemuDowntimeMs: 7,
      transferredBytes: 1,
      ramPasses: 3,
      disks: [disk],
    };
    const migration = fakeMigration({ state: 'SUCCEEDED', phase: undefined, summary });
    expect(sent(WireMigration, migrationToWire(migration))).toMatchObject({
      state: 'STATE_SUCCEEDED',
      phase: 'PHASE_UNSPECIFIED',
      summary: { ...summary, totalTimeMs: 10 },
    });
  });

  it('shows domains, hosts and peers', () => {
    const domain = {
      spec,
      state: 'IN_DOUBT' as const,
      ownerHost: 'host-b',
      epoch: 2,
      generation: 3,
      qemuPid: 77,
      serialPath: 'x',
      migrationId: 'm',
      tombstoneBytes: 5,
      doubt: {
        reason: 'OWNERSHIP_UNKNOWN' as const,
        message: 'Nobody knows.',
        facts: { migration_id: 'm' },
      },
    };
    const shown = sent(Domain, domainToWire(domain));
    expect(shown).toMatchObject({
      ...domain,
      state: 'STATE_IN_DOUBT',
      spec: { name: 'web' },
      doubt: {
        reason: 'OWNERSHIP_UNKNOWN',
        message: 'Nobody knows.',
        hint: expect.stringMatching(/agent back/),
        metadata: { migration_id: 'm' },
      },
    });
    expect(sent(Domain, domainToWire({ ...domain, doubt: undefined })).doubt).toBeUndefined();
    expect(parseDomainSpec(shown.spec)).toEqual(spec);
    const host = {
      name: 'host-a',
      qemuVersion: '10.0.2',
      qemuProblem: '',
      memoryBytes: 8,
      availableMemoryBytes: 4,
      cpus: 2,
      pools: [{ name: 'p', shared: true, sizeBytes: 2, availableBytes: 1, readsAsZeros: true }],
      kernels: ['linux'],
    };
    expect(sent(Host, hostToWire(host, '0.1.0'))).toMatchObject({
      ...host,
      agentVersion: '0.1.0',
      protocolVersion: 1,
    });
    const peer = {
      name: 'host-b',
      address: 'b:7443',
      reachable: true,
      agentVersion: '0.1.0',
      problem: '',
      roundTripMs: 1.4,
    };
    expect(sent(Peer, peerToWire(peer))).toMatchObject({ ...peer, roundTripMs: 1 });
  });

  it('has only numbers that the wire can hold', () => {
    fc.assert(
      fc.property(fc.double(), (value) => {
        expect(Number.isSafeInteger(uint64(value)) && uint64(value) >= 0).toBe(true);
        expect(uint32(value)).toBeLessThan(2 ** 32);
      }),
    );
  });
});

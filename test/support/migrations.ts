import { Migration } from '../../src/gen/drover/v1/migration.js';

const START = '2026-03-01T12:00:00.000Z';
const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

/** The time `ms` after the migrations below were accepted. */
export const after = (ms: number): Date => new Date(Date.parse(START) + ms);

/** A migration of web1 from host-a to host-b, as an agent would report it. */
export function migrationWith(fields: Parameters<typeof Migration.fromPartial>[0]): Migration {
  return Migration.fromPartial({
    migrationId: '11111111-2222-4333-8444-555555555555',
    domainUuid: '66666666-7777-4888-8999-000000000000',
    domainName: 'web1',
    sourceHost: 'host-a',
    destinationHost: 'host-b',
    state: 'STATE_RUNNING',
    phase: 'PHASE_PREPARE',
    runningOn: 'RUNNING_ON_SOURCE',
    cancellable: true,
    revision: 1,
    createTime: after(0),
    ...fields,
  });
}

/** Preparing: nothing is copied yet. */
export const preparing = migrationWith({});

/** Two disks on their way, one of them ready. */
export const mirroring = migrationWith({
  phase: 'PHASE_MIRROR',
  revision: 12,
  disks: [
    {
      diskId: 'root',
      totalBytes: 10 * GIB,
      transferredBytes: Math.round(6.4 * GIB),
      remainingBytes: Math.round(3.6 * GIB),
      bytesPerS: 412 * MIB,
      ready: false,
    },
    { diskId: 'data', totalBytes: GIB, transferredBytes: GIB, remainingBytes: 0, ready: true },
  ],
});

/** RAM on its way, all mirrors ready. */
export const precopying = migrationWith({
  phase: 'PHASE_PRECOPY',
  revision: 40,
  disks: [
    { diskId: 'root', totalBytes: 10 * GIB, transferredBytes: 10 * GIB, ready: true },
    { diskId: 'data', totalBytes: GIB, transferredBytes: GIB, ready: true },
  ],
  ram: {
    totalBytes: 2 * GIB,
    transferredBytes: Math.round(2.5 * GIB),
    remainingBytes: 300 * MIB,
    bytesPerS: 980 * MIB,
    dirtyBytesPerS: 34 * MIB,
    pass: 2,
    expectedDowntimeMs: 120,
  },
});

/** Arrived, with its figures. */
export const succeeded = migrationWith({
  ...precopying,
  state: 'STATE_SUCCEEDED',
  phase: 'PHASE_CLEANUP',
  runningOn: 'RUNNING_ON_DESTINATION',
  cancellable: false,
  revision: 60,
  endTime: after(30_500),
  summary: {
    totalTimeMs: 30_200,
    downtime: {
      totalUs: 46_100,
      settleUs: 3_100,
      ramUs: 12_000,
      loadUs: 20_300,
      commitUs: 400,
      resumeUs: 10_300,
      safetyUs: 2_100,
    },
    qemuDowntimeMs: 31,
    transferredBytes: Math.round(13.5 * GIB),
    ramPasses: 3,
    disks: [
      {
        diskId: 'root',
        sizeBytes: 10 * GIB,
        transferredBytes: 10 * GIB,
        sourceAllocatedBytes: Math.round(6.3 * GIB),
        destinationAllocatedBytes: Math.round(6.3 * GIB),
      },
      {
        diskId: 'data',
        sizeBytes: GIB,
        transferredBytes: GIB,
        sourceAllocatedBytes: 12 * MIB,
        destinationAllocatedBytes: 12 * MIB,
      },
    ],
  },
});

/** Failed while mirroring; the guest stayed. */
export const failed = migrationWith({
  ...mirroring,
  state: 'STATE_FAILED',
  cancellable: false,
  endTime: after(8_000),
  failure: {
    reason: 'DISK_NO_SPACE',
    message: 'The pool default has 2 GiB left; 10 GiB are needed.',
    side: 'SIDE_DESTINATION',
    phase: 'mirror',
    hint: 'Free space in the pool, or choose another host.',
    metadata: { required_bytes: '10737418240' },
  },
});

/** Cancelled; the guest stayed. */
export const cancelled = migrationWith({
  ...mirroring,
  state: 'STATE_CANCELLED',
  cancellable: false,
  endTime: after(5_000),
  failure: {
    reason: 'CANCELLED_BY',
    message: 'The migration was cancelled by the operator alice.',
    phase: 'mirror',
    hint: 'Migrate again when you like.',
    retryable: true,
  },
});

/** The peers lost each other during the handover. */
export const inDoubt = migrationWith({
  ...precopying,
  state: 'STATE_IN_DOUBT',
  phase: 'PHASE_HANDOVER',
  runningOn: 'RUNNING_ON_UNKNOWN',
  cancellable: false,
  failure: {
    reason: 'OWNERSHIP_UNKNOWN',
    message: 'The agent of host-b has not answered the commit.',
    phase: 'handover',
    hint: 'Bring the other agent back; the guest is not started on a guess.',
  },
});

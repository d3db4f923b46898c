import type { Transport } from '../channel/types.js';
import type { RamProgress } from '../domain/types.js';
import { Failure_Side, type Failure as WireFailure } from '../gen/drover/v1/failure.js';
import {
  Migration_Phase,
  Migration_RunningOn,
  Migration_State,
  Migration_Transport,
  type DiskProgress as WireDiskProgress,
  type Downtime as WireDowntime,
  type Migration as WireMigration,
  type RamProgress as WireRamProgress,
  type Summary as WireSummary,
} from '../gen/drover/v1/migration.js';
import type { StartMigrationRequest } from '../gen/drover/v1/migration_service.js';
import type { Downtime } from '../migration/downtime.js';
import type { Failure } from '../migration/errors.js';
import type { DiskProgress, Migration, MigrationRequest, Summary } from '../migration/migration.js';
import { PHASES, type Phase } from '../migration/phase.js';
import type { TransportWish } from '../migration/transport.js';
import { plainText } from '../util/plain-text.js';
import type { Side } from '../util/reasoned-error.js';
import { knownReason } from './error-status.js';
import { RpcError } from './errors.js';
import { uint32, uint64 } from './whole-number.js';

/** The most that is kept of what a peer says of a failure: characters, and facts. */
const MESSAGE_LIMIT = 1500;
const VALUE_LIMIT = 300;
const NAME_LIMIT = 64;
const FACTS_LIMIT = 32;

const WIRE_PHASE: Readonly<Record<Phase, Migration_Phase>> = {
  prepare: Migration_Phase.PREPARE,
  mirror: Migration_Phase.MIRROR,
  precopy: Migration_Phase.PRECOPY,
  switchover: Migration_Phase.SWITCHOVER,
  handover: Migration_Phase.HANDOVER,
  cleanup: Migration_Phase.CLEANUP,
};

const WIRE_SIDE: Readonly<Record<Side, Failure_Side>> = {
  source: Failure_Side.SOURCE,
  destination: Failure_Side.DESTINATION,
};

/** A migration as callers get it. */
export function migrationToWire(migration: Migration): WireMigration {
  return {
    migrationId: migration.migrationId,
    domainUuid: migration.domainUuid,
    domainName: migration.domainName,
    sourceHost: migration.sourceHost,
    destinationHost: migration.destinationHost,
    state: Migration_State[migration.state],
    phase: phaseToWire(migration.phase),
    runningOn: Migration_RunningOn[migration.runningOn],
    cancellable: migration.cancellable,
    revision: uint64(migration.revision),
    createTime: migration.createTime,
    endTime: migration.endTime,
    phaseTimes: migration.phaseTimes.map(({ phase, startTime, endTime }) => ({
      phase: phaseToWire(phase),
      startTime,
      endTime,
    })),
    disks: migration.disks.map(diskToWire),
    ram: migration.ram && ramToWire(migration.ram),
    summary: migration.summary && summaryToWire(migration.summary),
    failure: migration.failure && failureToWire(migration.failure),
    transport: migration.transport
      ? transportToWire(migration.transport)
      : Migration_Transport.UNSPECIFIED,
    transportReason: migration.transportReason,
  };
}

/** What a caller asks for; whether it makes sense is for the flow to say. */
export function migrationRequestFromWire(request: StartMigrationRequest): MigrationRequest {
  return {
    domain: request.domain,
    destinationHost: request.destinationHost,
    migrationId: request.migrationId,
    downtimeLimitMs: request.downtimeLimitMs,
    maxBandwidth: request.maxBandwidthBytesPerS,
    transport: wishFromWire(request.transport),
    gentle: request.gentle,
    weight: request.weight,
  };
}

/** How disks and RAM travel. */
export function transportToWire(transport: Transport): Migration_Transport {
  return transport === 'direct' ? Migration_Transport.DIRECT : Migration_Transport.STREAM;
}

/** @throws RpcError `REQUEST_INVALID` for anything but one of the two */
export function transportFromWire(transport: Migration_Transport): Transport {
  const wish = wishFromWire(transport);
  if (wish !== 'auto') return wish;
  throw new RpcError('REQUEST_INVALID', 'transport must be direct or stream.');
}

function wishFromWire(transport: Migration_Transport): TransportWish {
  switch (transport) {
    case Migration_Transport.UNSPECIFIED:
    case Migration_Transport.AUTO:
      return 'auto';
    case Migration_Transport.DIRECT:
      return 'direct';
    case Migration_Transport.STREAM:
      return 'stream';
    default:
      throw new RpcError('REQUEST_INVALID', 'transport is none that this agent knows.');
  }
}

/** A failure as part of a resource. */
export function failureToWire(failure: Failure): WireFailure {
  return {
    reason: failure.reason,
    message: failure.message,
    side: failure.side ? WIRE_SIDE[failure.side] : Failure_Side.UNSPECIFIED,
    phase: failure.phase ?? '',
    hint: failure.hint,
    retryable: failure.retryable,
    metadata: { ...failure.metadata },
  };
}

/**
 * A reason that only a newer peer knows becomes `INTERNAL`, with its name in the message. What a
 * peer says is kept and shown to people: it is cut, and it is text.
 */
export function failureFromWire(failure: WireFailure): Failure {
  const reason = knownReason(failure.reason);
  const message = plainText(failure.message, MESSAGE_LIMIT);
  const facts = Object.entries(failure.metadata).slice(0, FACTS_LIMIT);
  return {
    reason,
    message:
      reason === failure.reason ? message : `${message} (${plainText(failure.reason, NAME_LIMIT)})`,
    side: sideFromWire(failure.side),
    phase: isPhase(failure.phase) ? failure.phase : undefined,
    hint: plainText(failure.hint, VALUE_LIMIT),
    retryable: failure.retryable,
    metadata: Object.fromEntries(
      facts.map(([name, value]) => [plainText(name, NAME_LIMIT), plainText(value, VALUE_LIMIT)]),
    ),
  };
}

function sideFromWire(side: Failure_Side): Side | undefined {
  if (side === Failure_Side.SOURCE) return 'source';
  return side === Failure_Side.DESTINATION ? 'destination' : undefined;
}

function phaseToWire(phase: Phase | undefined): Migration_Phase {
  return phase ? WIRE_PHASE[phase] : Migration_Phase.UNSPECIFIED;
}

function isPhase(phase: string): phase is Phase {
  return Object.hasOwn(PHASES, phase);
}

function diskToWire(disk: DiskProgress): WireDiskProgress {
  return {
    diskId: disk.diskId,
    totalBytes: uint64(disk.totalBytes),
    transferredBytes: uint64(disk.transferredBytes),
    remainingBytes: uint64(disk.remainingBytes),
    bytesPerS: uint64(disk.bytesPerSecond),
    ready: disk.ready,
  };
}

function ramToWire(ram: RamProgress): WireRamProgress {
  return {
    totalBytes: uint64(ram.totalBytes),
    transferredBytes: uint64(ram.transferredBytes),
    remainingBytes: uint64(ram.remainingBytes),
    bytesPerS: uint64(ram.bytesPerSecond),
    dirtyBytesPerS: uint64(ram.dirtyBytesPerSecond),
    pass: uint32(ram.pass),
    expectedDowntimeMs: uint32(ram.expectedDowntimeMs),
  };
}

function summaryToWire(summary: Summary): WireSummary {
  return {
    totalTimeMs: uint64(summary.totalTimeMs),
    downtime: downtimeToWire(summary.downtime),
    qemuDowntimeMs: uint64(summary.qemuDowntimeMs),
    transferredBytes: uint64(summary.transferredBytes),
    ramPasses: uint32(summary.ramPasses),
    disks: summary.disks.map((disk) => ({
      diskId: disk.diskId,
      sizeBytes: uint64(disk.sizeBytes),
      transferredBytes: uint64(disk.transferredBytes),
      sourceAllocatedBytes: uint64(disk.sourceAllocatedBytes),
      destinationAllocatedBytes: uint64(disk.destinationAllocatedBytes),
    })),
  };
}

function downtimeToWire(downtime: Downtime): WireDowntime {
  return {
    totalUs: uint64(downtime.totalUs),
    settleUs: uint64(downtime.settleUs),
    ramUs: uint64(downtime.ramUs),
    loadUs: uint64(downtime.loadUs),
    commitUs: uint64(downtime.commitUs),
    resumeUs: uint64(downtime.resumeUs),
    safetyUs: uint64(downtime.safetyUs),
  };
}

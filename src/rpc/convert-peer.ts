import {
  type AwaitLoadedResponse,
  type CommitResponse,
  CommitResponse_Outcome,
  PeerState_Record,
  type PeerHeader as WirePeerHeader,
  type PeerState as WirePeerState,
} from '../gen/drover/v1/peer_service.js';
import type { HandoverRecord } from '../migration/handover-types.js';
import type { IngressAnswer } from '../migration/ingress.js';
import type { CommitOutcome, PeerHeader, PeerState, Vote } from '../migration/peer.js';
import { mapValues } from './convert-launch-spec.js';
import { failureFromWire, failureToWire } from './convert-migration.js';
import { RpcError } from './errors.js';
import { PROTOCOL_VERSION } from './ports.js';
import { uint32, uint64 } from './whole-number.js';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** Ids of journals are kept and compared, never read. */
const JOURNAL_ID = /^[A-Za-z0-9-]{0,64}$/;
/** Of epochs and generations: each grows by one with something that people do. */
const RANK_LIMIT = 2 ** 48;

/** What every request begins with. */
export function headerToWire(header: PeerHeader): WirePeerHeader {
  return {
    protocolVersion: PROTOCOL_VERSION,
    migrationId: header.migrationId,
    attempt: uint32(header.attempt),
    domainUuid: header.domainUuid,
    epoch: uint64(header.epoch),
    generation: uint64(header.generation),
    sourceHost: header.sourceHost,
    destinationHost: header.destinationHost,
    sourceJournalId: header.sourceJournalId,
    destinationJournalId: header.destinationJournalId,
  };
}

/**
 * @throws RpcError `VERSION_SKEW` for another version of the protocol, `REQUEST_INVALID` where
 *   something is missing that every call needs
 */
export function headerFromWire(header: WirePeerHeader | undefined): PeerHeader {
  if (!header) throw new RpcError('REQUEST_INVALID', 'The request has no header.');
  const version = header.protocolVersion;
  if (version !== PROTOCOL_VERSION) {
    throw new RpcError(
      'VERSION_SKEW',
      `The caller speaks version ${version} of the protocol, this agent ${PROTOCOL_VERSION}.`,
      { facts: { protocol_version: PROTOCOL_VERSION } },
    );
  }
  const wrong = [
    ...(UUID.test(header.migrationId) ? [] : ['migration_id']),
    ...(UUID.test(header.domainUuid) ? [] : ['domain_uuid']),
    ...(header.attempt >= 1 ? [] : ['attempt']),
    ...(header.sourceHost ? [] : ['source_host']),
    ...(header.destinationHost ? [] : ['destination_host']),
    ...(JOURNAL_ID.test(header.sourceJournalId) ? [] : ['source_journal_id']),
    ...(JOURNAL_ID.test(header.destinationJournalId) ? [] : ['destination_journal_id']),
    ...(header.epoch <= RANK_LIMIT ? [] : ['epoch']),
    ...(header.generation <= RANK_LIMIT ? [] : ['generation']),
  ];
  if (wrong.length > 0) {
    throw new RpcError('REQUEST_INVALID', `The header has a wrong ${wrong.join(', ')}.`);
  }
  return {
    migrationId: header.migrationId,
    attempt: header.attempt,
    domainUuid: header.domainUuid,
    epoch: header.epoch,
    generation: header.generation,
    sourceHost: header.sourceHost,
    destinationHost: header.destinationHost,
    sourceJournalId: header.sourceJournalId,
    destinationJournalId: header.destinationJournalId,
  };
}

/** What a side's journal says. */
export function peerStateToWire(state: PeerState): WirePeerState {
  return {
    record: state.record === 'NONE' ? PeerState_Record.UNSPECIFIED : PeerState_Record[state.record],
    journalId: state.journalId,
    failure: state.failure && failureToWire(state.failure),
    epoch: uint64(state.rank.epoch),
    generation: uint64(state.rank.generation),
  };
}

/**
 * @throws RpcError `VERSION_SKEW` for a record that this version does not know: nothing may be
 *   guessed from it
 */
export function peerStateFromWire(state: WirePeerState | undefined): PeerState {
  if (!state) throw new RpcError('VERSION_SKEW', 'The peer answered without its state.');
  return {
    record: recordFromWire(state.record),
    rank: { epoch: state.epoch, generation: state.generation },
    journalId: journalIdFromWire(state.journalId),
    failure: state.failure && failureFromWire(state.failure),
  };
}

/** What became of the guest. */
export function commitOutcomeToWire(outcome: CommitOutcome): CommitResponse {
  const failure = outcome.outcome === 'REFUSED' ? outcome.failure : undefined;
  return {
    outcome: CommitResponse_Outcome[outcome.outcome],
    failure: failure && failureToWire(failure),
    journalUs: uint64(outcome.outcome === 'RUNNING' ? outcome.cost.journalUs : 0),
    handledUs: uint64(outcome.outcome === 'RUNNING' ? outcome.cost.handledUs : 0),
  };
}

/** @throws RpcError `VERSION_SKEW` for an outcome that this version does not know */
export function commitOutcomeFromWire(response: CommitResponse): CommitOutcome {
  switch (response.outcome) {
    case CommitResponse_Outcome.RUNNING:
      return {
        outcome: 'RUNNING',
        cost: { journalUs: response.journalUs, handledUs: response.handledUs },
      };
    case CommitResponse_Outcome.REFUSED:
      return { outcome: 'REFUSED', failure: response.failure && failureFromWire(response.failure) };
    case CommitResponse_Outcome.OWNED_LOST:
      return { outcome: 'OWNED_LOST' };
    default:
      throw new RpcError('VERSION_SKEW', 'The peer answered the commit with an unknown outcome.');
  }
}

/** The destination's vote. */
export function voteToWire(vote: Vote): AwaitLoadedResponse {
  return { journalId: vote.journalId, allocatedBytes: mapValues(vote.allocatedBytes, uint64) };
}

/** What a source may send. */
export function ingressToWire({ bytesPerS, ramTurn, validMs }: IngressAnswer) {
  return { bytesPerS: uint64(bytesPerS), ramTurn, validMs: uint32(validMs) };
}

/** The other way. */
export function voteFromWire(vote: AwaitLoadedResponse): Vote {
  const journalId = journalIdFromWire(vote.journalId);
  return { journalId, allocatedBytes: { ...vote.allocatedBytes } };
}

/**
 * By which journal the peer knows a migration; empty where it has none.
 *
 * @throws RpcError `REQUEST_INVALID` for anything that is no id: it would be kept
 */
export function journalIdFromWire(journalId: string): string {
  if (JOURNAL_ID.test(journalId)) return journalId;
  throw new RpcError('REQUEST_INVALID', "The peer names a journal by what is no journal's id.");
}

function recordFromWire(record: PeerState_Record): HandoverRecord | 'NONE' {
  if (record === PeerState_Record.UNSPECIFIED) return 'NONE';
  for (const name of RECORDS) {
    if (PeerState_Record[name] === record) return name;
  }
  throw new RpcError('VERSION_SKEW', "The peer's journal has a record that is not known here.");
}

const RECORDS: readonly HandoverRecord[] = [
  'STARTED',
  'DST_PREPARED',
  'SWITCHING',
  'COMMITTED',
  'RECLAIMED',
  'DONE',
  'ABORTED',
  'PREPARED',
  'LOADED',
  'OWNED',
  'RUNNING',
  'SOURCE_GONE',
  'SUPERSEDED',
];

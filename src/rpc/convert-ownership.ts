import { Domain_State } from '../gen/drover/v1/domain.js';
import { Failure_Side } from '../gen/drover/v1/failure.js';
import {
  type ResolveMigrationRequest,
  ResolveMigrationRequest_Action,
  type ResolveMigrationResponse,
  ResolveMigrationResponse_Evidence,
} from '../gen/drover/v1/migration_service.js';
import {
  Ownership_Certainty,
  type Ownership as WireOwnership,
  type OwnershipStatement as WireStatement,
} from '../gen/drover/v1/ownership.js';
import type { Certainty, Claim, ClaimedMigration } from '../migration/ownership-claim.js';
import type { Ownership, Statement } from '../migration/ownership-verdict.js';
import type { Resolution, ResolveRequest } from '../migration/resolving.js';
import { plainText } from '../util/plain-text.js';
import { failureFromWire, failureToWire, migrationToWire } from './convert-migration.js';
import { RpcError } from './errors.js';
import { uint64 } from './whole-number.js';

/** The most that is taken of what a host says: characters, and statements. */
const NAME_LIMIT = 128;
const EXPLANATION_LIMIT = 1500;
const STATEMENTS_LIMIT = 64;

type DomainState = NonNullable<Claim['state']>;

/** Which host has a domain, as callers get it. */
export function ownershipToWire(ownership: Ownership): WireOwnership {
  return {
    domainUuid: ownership.domainUuid,
    domainName: ownership.domainName,
    certainty: Ownership_Certainty[ownership.certainty],
    ownerHost: ownership.ownerHost ?? '',
    epoch: uint64(ownership.rank.epoch),
    generation: uint64(ownership.rank.generation),
    state: stateToWire(ownership.state),
    since: ownership.since,
    migrationId: ownership.migrationId ?? '',
    explanation: ownership.explanation,
    toSettle: ownership.toSettle,
    statements: ownership.statements.map(statementToWire),
    contradictions: ownership.contradictions.map((one) => ({ ...one })),
  };
}

/** What hosts said, as another agent tells it. */
export function statementsFromWire(wire: WireOwnership | undefined): Statement[] {
  if (!wire) throw new RpcError('VERSION_SKEW', 'The peer answered without an ownership.');
  return wire.statements.slice(0, STATEMENTS_LIMIT).map((statement) => ({
    host: plainText(statement.host, NAME_LIMIT),
    saidTime: statement.saidTime ?? new Date(0),
    claim: claimFromWire(statement, wire),
    problem: statement.problem && failureFromWire(statement.problem),
  }));
}

function statementToWire({ host, saidTime, claim, problem }: Statement): WireStatement {
  const migration = claim?.migration;
  return {
    host,
    saidTime,
    answered: problem === undefined,
    problem: problem && failureToWire(problem),
    known: claim !== undefined,
    certainty: claim ? Ownership_Certainty[claim.certainty] : Ownership_Certainty.UNSPECIFIED,
    ownerHost: claim?.ownerHost ?? '',
    epoch: uint64(claim?.rank.epoch ?? 0),
    generation: uint64(claim?.rank.generation ?? 0),
    state: stateToWire(claim?.state),
    migrationId: migration?.migrationId ?? '',
    side: migration ? sideToWire(migration) : Failure_Side.UNSPECIFIED,
    record: migration?.record ?? '',
    recordTime: migration?.recordTime,
    peerHost: migration?.peerHost ?? '',
    explanation: claim?.explanation ?? '',
  };
}

function claimFromWire(wire: WireStatement, about: WireOwnership): Claim | undefined {
  if (!wire.answered || !wire.known) return undefined;
  return {
    domainUuid: plainText(about.domainUuid, NAME_LIMIT),
    domainName: plainText(about.domainName, NAME_LIMIT),
    certainty: certaintyFromWire(wire.certainty),
    ownerHost: wire.ownerHost === '' ? undefined : plainText(wire.ownerHost, NAME_LIMIT),
    rank: { epoch: wire.epoch, generation: wire.generation },
    state: STATES.find((state) => Domain_State[state] === wire.state),
    migration: migrationFromWire(wire),
    explanation: plainText(wire.explanation, EXPLANATION_LIMIT),
  };
}

function migrationFromWire(wire: WireStatement): ClaimedMigration | undefined {
  if (wire.migrationId === '') return undefined;
  return {
    migrationId: plainText(wire.migrationId, NAME_LIMIT),
    side: wire.side === Failure_Side.SOURCE ? 'source' : 'destination',
    peerHost: plainText(wire.peerHost, NAME_LIMIT),
    record: plainText(wire.record, NAME_LIMIT),
    recordTime: wire.recordTime ?? new Date(0),
  };
}

/** @throws RpcError `REQUEST_INVALID` where it does not say what is to be done */
export function resolveRequestFromWire(
  wire: ResolveMigrationRequest,
  caller: string,
): ResolveRequest {
  const { migrationId, confirmDomainName, note } = wire;
  const action = ACTIONS.get(wire.action);
  if (!action) throw new RpcError('REQUEST_INVALID', 'action must be RECLAIM or RELINQUISH.');
  return { migrationId, action, confirmDomainName, note, caller };
}

/** What was decided, as callers get it. */
export function resolutionToWire(resolution: Resolution): ResolveMigrationResponse {
  return {
    migration: migrationToWire(resolution.migration),
    record: resolution.record,
    epoch: uint64(resolution.rank.epoch),
    generation: uint64(resolution.rank.generation),
    evidence: ResolveMigrationResponse_Evidence[resolution.evidence],
    discarded: resolution.discarded.map((one) => ({ ...one })),
    ownerHost: resolution.ownerHost,
    peerAnswer: resolution.peerAnswer,
  };
}

const ACTIONS: ReadonlyMap<string, ResolveRequest['action']> = new Map([
  [ResolveMigrationRequest_Action.RECLAIM, 'reclaim'],
  [ResolveMigrationRequest_Action.RELINQUISH, 'relinquish'],
]);

const STATES: readonly DomainState[] = [
  'STOPPED',
  'RUNNING',
  'PAUSED',
  'INCOMING',
  'MOVED',
  'IN_DOUBT',
];

const CERTAINTIES: readonly Certainty[] = ['CERTAIN', 'REPORTED', 'IN_DOUBT', 'UNKNOWN'];

// One of a later version tells nothing here.
function certaintyFromWire(wire: Ownership_Certainty): Certainty {
  return CERTAINTIES.find((one) => Ownership_Certainty[one] === wire) ?? 'UNKNOWN';
}

function stateToWire(state: DomainState | undefined): Domain_State {
  return state ? Domain_State[state] : Domain_State.UNSPECIFIED;
}

function sideToWire({ side }: ClaimedMigration): Failure_Side {
  return side === 'source' ? Failure_Side.SOURCE : Failure_Side.DESTINATION;
}

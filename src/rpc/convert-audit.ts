import { AuditEvent_Decision, type AuditEvent as WireAuditEvent } from '../gen/drover/v1/audit.js';
import type {
  ListAuditEventsRequest,
  ListAuditEventsResponse,
} from '../gen/drover/v1/host_service.js';
import type { AuditDecision, AuditQuery, KeptAuditEvent } from '../util/audit.js';
import { RpcError } from './errors.js';
import { uint64 } from './whole-number.js';

const DEFAULT_PAGE = 100;
const LONGEST_PAGE = 1_000;
const DECISIONS: readonly AuditDecision[] = ['ALLOWED', 'DENIED', 'EVENT'];

/**
 * What is asked for, and how many of it.
 *
 * @throws RpcError `REQUEST_INVALID`
 */
export function auditQueryFromWire(request: ListAuditEventsRequest): {
  readonly query: AuditQuery;
  readonly limit: number;
} {
  const { pageSize, pageToken, caller, action, subject, decision, since } = request;
  if (pageSize > LONGEST_PAGE) {
    throw new RpcError('REQUEST_INVALID', `page_size is above ${LONGEST_PAGE}: ${pageSize}.`);
  }
  if (pageToken !== '' && !/^\d{1,15}$/.test(pageToken)) {
    throw new RpcError('REQUEST_INVALID', 'page_token is not one that this agent has answered.');
  }
  if (since !== undefined && Number.isNaN(since.getTime())) {
    throw new RpcError('REQUEST_INVALID', 'since is no time.');
  }
  const before = pageToken === '' ? undefined : Number(pageToken);
  const wanted = decisionFromWire(decision);
  return {
    query: { caller, action, subject, decision: wanted, since, before },
    limit: pageSize || DEFAULT_PAGE,
  };
}

/** One page. `events` may hold one more than `limit`, which shows that there are further ones. */
export function auditPageToWire(
  events: readonly KeptAuditEvent[],
  limit: number,
): ListAuditEventsResponse {
  const page = events.slice(0, limit);
  const next = events.length > limit ? String(page.at(-1)?.sequence ?? '') : '';
  return { events: page.map(eventToWire), nextPageToken: next };
}

function eventToWire(event: KeptAuditEvent): WireAuditEvent {
  const { sequence, decision, ...rest } = event;
  return { ...rest, sequence: uint64(sequence), decision: AuditEvent_Decision[decision] };
}

function decisionFromWire(decision: AuditEvent_Decision): AuditDecision | undefined {
  if (decision === AuditEvent_Decision.UNSPECIFIED) return undefined;
  const known = DECISIONS.find((name) => AuditEvent_Decision[name] === decision);
  if (known) return known;
  throw new RpcError('REQUEST_INVALID', 'decision is none that this agent knows.');
}

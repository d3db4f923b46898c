import { ClientError, Status } from 'nice-grpc-common';
import { RichClientError, type RichServerError } from 'nice-grpc-error-details';
import { describe, expect, it } from 'vitest';
import {
  isConnectionFailure,
  toReasonedError,
  toServerError,
} from '../../../src/rpc/error-status.js';
import { ReasonedError } from '../../../src/util/reasoned-error.js';
import { REASONS, type Reason } from '../../../src/util/reasons.js';

const NO_ANSWER = {
  agent: 'the agent of host-b',
  unreachable: 'PEER_UNREACHABLE',
  silent: 'STALLED',
} as const;
const reasons = Object.keys(REASONS) as Reason[];

describe('an error on its way through a status', () => {
  it.each(reasons)('keeps everything that %s says', (reason) => {
    const error = new ReasonedError(reason, 'What was wrong.', {
      side: 'source',
      hint: 'Do this.',
      facts: { owner_host: 'host-c', required_bytes: 7 },
      violations: [{ reason, subject: 'disks[0]', message: 'is wrong' }],
    });
    const status = sent(error);
    expect(Status[status.code]).toBe(REASONS[reason].status);
    expect(toReasonedError(status, NO_ANSWER)).toMatchObject({
      reason,
      message: 'What was wrong.',
      side: 'source',
      hint: 'Do this.',
      facts: { owner_host: 'host-c', required_bytes: '7' },
      violations: [{ reason, subject: 'disks[0]', message: 'is wrong' }],
    });
    const retry = status.extra.some(({ $type }) => $type === 'google.rpc.RetryInfo');
    expect(retry).toBe(REASONS[reason].retryable);
  });

  it('gets the hint of the table where it has none of its own', () => {
    const back = toReasonedError(sent(new ReasonedError('NO_PORT', 'x')), NO_ANSWER);
    expect(back.hint).toBe(REASONS.NO_PORT.hint);
    expect(back.side).toBeUndefined();
    expect(back.violations).toEqual([]);
  });

  it('is INTERNAL where something without a reason was thrown', () => {
    const back = toReasonedError(sent(new TypeError('a bug')), NO_ANSWER);
    expect(back).toMatchObject({ reason: 'INTERNAL', message: 'a bug' });
  });

  it('becomes INTERNAL, with its name kept, where only a newer peer knows the reason', () => {
    const status = sent(
      new ReasonedError('NO_PORT', 'It is raining.', {
        violations: [{ reason: 'NO_PORT', subject: 'sky', message: 'grey' }],
      }),
    );
    for (const detail of status.extra) {
      if (detail.$type === 'google.rpc.ErrorInfo') detail.reason = 'TOO_WET';
      if (detail.$type === 'google.rpc.PreconditionFailure') detail.violations[0]!.type = 'TOO_WET';
    }
    expect(toReasonedError(status, NO_ANSWER)).toMatchObject({
      reason: 'INTERNAL',
      message: 'It is raining. (TOO_WET)',
      violations: [{ reason: 'INTERNAL', subject: 'sky', message: 'grey' }],
    });
  });

  it('is not taken for ours when its details are of another domain', () => {
    const status = sent(new ReasonedError('NO_PORT', 'x'));
    for (const detail of status.extra) {
      if (detail.$type === 'google.rpc.ErrorInfo') detail.domain = 'elsewhere';
    }
    expect(toReasonedError(status, NO_ANSWER).reason).toBe('LIMIT_REACHED');
  });

  it('stays small however much it says', () => {
    const status = sent(
      new ReasonedError('SPEC_INVALID', 'x'.repeat(100_000), {
        facts: { long: 'y'.repeat(100_000) },
        violations: Array.from({ length: 1000 }, () => ({
          reason: 'SPEC_INVALID' as const,
          subject: 's'.repeat(1000),
          message: 'm'.repeat(1000),
        })),
      }),
    );
    expect(JSON.stringify(status.extra).length + status.details.length).toBeLessThan(16 * 1024);
  });
});

describe('a status that gRPC made itself', () => {
  const reasonOf = (code: Status) =>
    toReasonedError(new ClientError('/drover.v1.PeerService/Prepare', code, 'text'), NO_ANSWER);

  it('says that nobody answered, in words that name agent and call', () => {
    expect(reasonOf(Status.DEADLINE_EXCEEDED)).toMatchObject({
      reason: 'STALLED',
      message: 'The agent of host-b did not answer Prepare in time.',
    });
    expect(reasonOf(Status.UNAVAILABLE).reason).toBe('PEER_UNREACHABLE');
    expect(reasonOf(Status.CANCELLED).reason).toBe('PEER_UNREACHABLE');
  });

  it.each([
    [Status.UNIMPLEMENTED, 'NOT_SUPPORTED'],
    [Status.PERMISSION_DENIED, 'PERMISSION_DENIED'],
    [Status.UNAUTHENTICATED, 'TLS_PEER_REJECTED'],
    [Status.UNKNOWN, 'INTERNAL'],
    [Status.RESOURCE_EXHAUSTED, 'LIMIT_REACHED'],
  ])('with code %s is %s', (code, reason) => {
    expect(reasonOf(code)).toMatchObject({
      reason,
      message: `The agent of host-b failed Prepare: text (${Status[code]}).`,
    });
  });

  it('is a connection failure only where no agent has said UNAVAILABLE itself', () => {
    expect(isConnectionFailure(new ClientError('/x', Status.UNAVAILABLE, ''))).toBe(true);
    expect(isConnectionFailure(new ClientError('/x', Status.INTERNAL, ''))).toBe(false);
    expect(isConnectionFailure(sent(new ReasonedError('AGENT_UNREACHABLE', '')))).toBe(false);
    expect(isConnectionFailure(new Error('UNAVAILABLE'))).toBe(false);
  });
});

/** What the client's library makes of an error that the server threw. */
function sent(error: unknown): RichClientError {
  const { code, details, extra } = toServerError(error) as RichServerError;
  return new RichClientError('/drover.v1.PeerService/Prepare', code, details, extra);
}

import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { ClientError, type ServerError, Status } from 'nice-grpc-common';
import {
  Any,
  type ErrorDetails,
  ErrorInfo,
  PreconditionFailure,
  RetryInfo,
  RichClientError,
  RichServerError,
} from 'nice-grpc-error-details';
import { asReasoned } from '../migration/errors.js';
import { plainText } from '../util/plain-text.js';
import type { Facts, ReasonedError, Side, Violation } from '../util/reasoned-error.js';
import { REASONS, type Reason } from '../util/reasons.js';
import { RpcError } from './errors.js';

/*
 * Errors on the wire. This is the only file that knows the codes of gRPC: everywhere else an error
 * is its reason. What a caller decides by is in the details of the status, never in its text.
 */

/** The domain of our reasons in ErrorInfo. */
const ERROR_DOMAIN = 'drover';

const RETRY_AFTER_SECONDS = 1;

/*
 * A status travels in HTTP/2 trailers, which peers accept up to 16 KiB or so. Nothing an error
 * holds may make it undeliverable, so what is long is cut.
 */
const MESSAGE_LIMIT = 1500;
const VALUE_LIMIT = 300;
const VIOLATIONS_LIMIT = 16;
const FACTS_LIMIT = 32;
const KEY_LIMIT = 64;

/** Facts that every ErrorInfo may hold besides the error's own. */
const SIDE_KEY = 'side';
const HINT_KEY = 'hint';

/** The status for an error. What has no reason is a fault in Drover: `INTERNAL`. */
export function toServerError(error: unknown): ServerError {
  const reasoned = asReasoned(error);
  const rule = REASONS[reasoned.reason];
  return new RichServerError(
    Status[rule.status as keyof typeof Status],
    cut(reasoned.message, MESSAGE_LIMIT),
    details(reasoned),
  );
}

/**
 * The same where no middleware of ours writes it: code, text, and the bytes of the trailer
 * `grpc-status-details-bin`.
 */
export function toPlainStatus(error: ReasonedError) {
  const code = Status[REASONS[error.reason].status as keyof typeof Status];
  const text = cut(error.message, MESSAGE_LIMIT);
  // A google.rpc.Status.
  const writer = new BinaryWriter().uint32(8).int32(code).uint32(18).string(text);
  const [info] = details(error);
  if (info?.$type === ErrorInfo.$type) {
    const typeUrl = `type.googleapis.com/${ErrorInfo.$type}`;
    const any = Any.fromPartial({ typeUrl, value: ErrorInfo.encode(info).finish() });
    writer.uint32(26).bytes(Any.encode(any).finish());
  }
  return { code: code as number, details: text, detailsBin: writer.finish() };
}

/** What it means to a caller that gRPC got no answer. */
export interface NoAnswer {
  /** Who did not answer, for people. */
  readonly agent: string;
  /** There is no connection, or no longer one. */
  readonly unreachable: Reason;
  /** No answer came in time. */
  readonly silent: Reason;
}

/**
 * The error that a status stands for. A status without a reason of ours was made by gRPC itself,
 * which knows only whether the other end was reached.
 */
export function toReasonedError(error: ClientError, noAnswer: NoAnswer): ReasonedError {
  const extra = error instanceof RichClientError ? error.extra : [];
  const info = extra.find((detail) => detail.$type === ErrorInfo.$type);
  if (info?.domain === ERROR_DOMAIN) return fromErrorInfo(error, info, extra);
  const method = error.path.slice(error.path.lastIndexOf('/') + 1);
  const said = plainText(error.details, MESSAGE_LIMIT);
  const message =
    error.code === Status.DEADLINE_EXCEEDED
      ? `${noAnswer.agent} did not answer ${method} in time.`
      : `${noAnswer.agent} failed ${method}: ${said} (${Status[error.code]}).`;
  return new RpcError(reasonOfCode(error.code, noAnswer), capital(message), { cause: error });
}

/** True when the status was made by gRPC because there is no connection, or no longer one. */
export function isConnectionFailure(error: unknown): error is ClientError {
  if (!(error instanceof ClientError) || error.code !== Status.UNAVAILABLE) return false;
  return !(
    error instanceof RichClientError && error.extra.some(({ $type }) => $type === ErrorInfo.$type)
  );
}

function details(error: ReasonedError): ErrorDetails[] {
  const rule = REASONS[error.reason];
  const metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(error.facts)) {
    metadata[key] = cut(String(value), VALUE_LIMIT);
  }
  if (error.side) metadata[SIDE_KEY] = error.side;
  metadata[HINT_KEY] = cut(error.hint ?? rule.hint, VALUE_LIMIT);
  const found: ErrorDetails[] = [
    ErrorInfo.fromPartial({ domain: ERROR_DOMAIN, reason: error.reason, metadata }),
  ];
  if (error.violations.length > 0) found.push(preconditionFailure(error.violations));
  if (rule.retryable) {
    found.push(RetryInfo.fromPartial({ retryDelay: { seconds: RETRY_AFTER_SECONDS } }));
  }
  return found;
}

function preconditionFailure(violations: readonly Violation[]): PreconditionFailure {
  return PreconditionFailure.fromPartial({
    violations: violations.slice(0, VIOLATIONS_LIMIT).map(({ reason, subject, message }) => ({
      type: reason,
      subject: cut(subject, VALUE_LIMIT),
      description: cut(message, VALUE_LIMIT),
    })),
  });
}

function fromErrorInfo(
  error: ClientError,
  info: ErrorInfo,
  extra: readonly ErrorDetails[],
): ReasonedError {
  const said = Object.entries(info.metadata).slice(0, FACTS_LIMIT);
  const metadata = Object.fromEntries(
    said.map(([key, value]) => [plainText(key, KEY_LIMIT), plainText(value, VALUE_LIMIT)]),
  );
  const { [SIDE_KEY]: side, [HINT_KEY]: hint, ...facts } = metadata;
  const message = plainText(error.details, MESSAGE_LIMIT);
  const violations = extra
    .filter((detail) => detail.$type === PreconditionFailure.$type)
    .flatMap((failure) => failure.violations);
  return new RpcError(
    knownReason(info.reason),
    isReason(info.reason) ? message : `${message} (${plainText(info.reason, KEY_LIMIT)})`,
    {
      cause: error,
      facts: facts satisfies Facts,
      ...(side === 'source' || side === 'destination' ? { side: side satisfies Side } : {}),
      ...(hint === undefined ? {} : { hint }),
      violations: violations.map(({ type, subject, description }) => ({
        reason: knownReason(type),
        subject: plainText(subject, VALUE_LIMIT),
        message: plainText(description, VALUE_LIMIT),
      })),
    },
  );
}

/** Reasons are never taken away, but a newer peer may know some that we do not. */
export function knownReason(reason: string): Reason {
  return isReason(reason) ? reason : 'INTERNAL';
}

function isReason(reason: string): reason is Reason {
  return Object.hasOwn(REASONS, reason);
}

function reasonOfCode(code: Status, noAnswer: NoAnswer): Reason {
  switch (code) {
    case Status.DEADLINE_EXCEEDED:
      return noAnswer.silent;
    // A server that is forced to stop cancels the calls it still has.
    case Status.UNAVAILABLE:
    case Status.CANCELLED:
      return noAnswer.unreachable;
    case Status.UNIMPLEMENTED:
      return 'NOT_SUPPORTED';
    case Status.PERMISSION_DENIED:
      return 'PERMISSION_DENIED';
    case Status.UNAUTHENTICATED:
      return 'TLS_PEER_REJECTED';
    // A message that is too large, for example.
    case Status.RESOURCE_EXHAUSTED:
      return 'LIMIT_REACHED';
    default:
      return 'INTERNAL';
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function cut(text: string, limit: number): string {
  return text.length <= limit ? text : `${text.slice(0, limit - 1)}…`;
}

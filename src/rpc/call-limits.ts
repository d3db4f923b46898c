import {
  Metadata,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
} from '@grpc/grpc-js';
import type { AuditLog } from '../util/audit.js';
import { addressOf } from './audit.js';
import { toPlainStatus } from './error-status.js';
import { RpcError } from './errors.js';
import { readIdentity } from './identity.js';
import type { ConnectionLimits } from './limits.js';
import { UNFINISHED_PER_CALLER } from './limits.js';

/*
 * Limits of calls that must hold before a call's first message has come, when no middleware has
 * seen it yet.
 */

/** What the calls of one certificate take just now. */
interface Usage {
  calls: number;
  unfinished: number;
}

/** What limiting calls needs. */
export interface CallLimitTools {
  readonly limits: ConnectionLimits;
  readonly audit: AuditLog;
  /** Methods that are never refused for the number of calls: those that end a handover. */
  readonly spared: ReadonlySet<string>;
}

/**
 * Refuses calls beyond those that one certificate may have under way, and ends those whose first
 * message does not come in time. For calls with one request that is until the whole request has
 * come.
 */
export function limitCalls({ limits, audit, spared }: CallLimitTools): ServerInterceptor {
  const usages = new Map<string, Usage>();
  return (method, call) => {
    const { path, requestStream } = method;
    const refuse = (error: RpcError) => {
      const { reason, message } = error;
      const caller = describe(call);
      audit.record({ caller, action: path, decision: 'DENIED', reason, subject: '', message });
      const { code, details, detailsBin } = toPlainStatus(error);
      const metadata = new Metadata();
      metadata.set('grpc-status-details-bin', Buffer.from(detailsBin));
      call.sendStatus({ code, details, metadata });
    };
    return new ServerInterceptingCall(call, {
      start(next) {
        const key = keyOf(call);
        const usage = usages.get(key) ?? { calls: 0, unfinished: 0 };
        if (usage.calls >= limits.callsPerCaller && !spared.has(path)) {
          return refuse(reached('limits.calls_per_caller', limits.callsPerCaller));
        }
        if (usage.unfinished >= UNFINISHED_PER_CALLER) {
          return refuse(reached('calls whose request is still coming', UNFINISHED_PER_CALLER));
        }
        let came: (() => void) | undefined;
        next({
          // A call that its caller has reset already gets no further than this, and no end either.
          onReceiveMetadata(metadata, forward) {
            usages.set(key, usage);
            came = begin(usage, () => refuse(late(limits.requestMs)), limits.requestMs);
            forward(metadata);
          },
          onReceiveMessage(message, forward) {
            if (requestStream) came?.();
            forward(message);
          },
          onReceiveHalfClose(forward) {
            came?.();
            forward();
          },
          onCancel() {
            if (!came) return;
            came();
            came = undefined;
            usage.calls--;
            if (usage.calls === 0) usages.delete(key);
          },
        });
      },
    });
  };
}

/** Counts a call. The answer ends its being unfinished; more than once does no harm. */
function begin(usage: Usage, late: () => void, limitMs: number): () => void {
  usage.calls++;
  usage.unfinished++;
  let coming = true;
  const timer = setTimeout(late, limitMs).unref();
  return () => {
    if (coming) usage.unfinished--;
    coming = false;
    clearTimeout(timer);
  };
}

const keys = new WeakMap<object, string>();

/** One for each certificate; whoever comes through the unix socket is one. */
function keyOf(call: ServerInterceptingCallInterface): string {
  // Reading a certificate takes longer than all the rest, and it belongs to the connection.
  const session = (call as { stream?: { session?: object } }).stream?.session;
  const known = session && keys.get(session);
  if (known !== undefined) return known;
  const key = call.getAuthContext().sslPeerCertificate?.fingerprint256 ?? 'local';
  if (session) keys.set(session, key);
  return key;
}

function describe(call: ServerInterceptingCallInterface): string {
  const certificate = call.getAuthContext().sslPeerCertificate;
  if (!certificate) return 'operator/local';
  try {
    const { role, name } = readIdentity(certificate.raw);
    return `${role}/${name}`;
  } catch {
    return addressOf(call.getPeer());
  }
}

function reached(limit: string, value: number): RpcError {
  const message = `The caller has reached a limit of this agent: ${limit} is ${value}.`;
  return new RpcError('LIMIT_REACHED', message, { facts: { limit, limit_value: value } });
}

function late(limitMs: number): RpcError {
  const limit = 'limits.request_ms';
  const message = `The request did not come whole in time: ${limit} is ${limitMs}.`;
  return new RpcError('LIMIT_REACHED', message, { facts: { limit, limit_value: limitMs } });
}

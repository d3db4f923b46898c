import { ServerError, type ServerMiddleware } from 'nice-grpc-common';
import { HealthDefinition } from 'nice-grpc-server-health';
import { PeerServiceDefinition } from '../gen/drover/v1/peer_service.js';
import type { AuditLog } from '../util/audit.js';
import { ReasonedError } from '../util/reasoned-error.js';
import type { Reason } from '../util/reasons.js';
import type { CallerContext } from './middleware.js';

/*
 * Puts calls on record: those that change something with what became of them, and all that are
 * refused. Reads that are let through are left out.
 */

/** Reasons by which the caller was refused, not the request. */
const DENIALS: ReadonlySet<Reason> = new Set<Reason>([
  'PERMISSION_DENIED',
  'TLS_PEER_REJECTED',
  'LIMIT_REACHED',
]);

/** Asked for twice a second, and of nothing that is kept. */
const { fullName, methods } = PeerServiceDefinition;
const SHARING = `/${fullName}/${methods.shareIngress.name}`;
const READING_SERVICES = [HealthDefinition.fullName, 'grpc.reflection.v1.ServerReflection'];

/** The two places where calls are recorded. */
export interface CallAudit {
  /** Before callers are identified: records those that are refused by their certificate. */
  readonly strangers: ServerMiddleware;
  /** Between that and the check of roles. */
  readonly calls: ServerMiddleware<object, CallerContext>;
}

/** Makes the middleware for one server. */
export function auditCalls(audit: AuditLog): CallAudit {
  const recorded = new WeakSet<object>();
  return {
    async *strangers(call, context) {
      try {
        return yield* call.next(call.request, context);
      } catch (error) {
        if (!isObject(error) || !recorded.has(error)) {
          audit.record(denied(call.method.path, addressOf(context.peer), error));
        }
        throw error;
      }
    },
    async *calls(call, context) {
      const { path, options } = call.method;
      const caller = `${context.caller.role}/${context.caller.name}`;
      try {
        const response = yield* call.next(call.request, context);
        if (changesSomething(path, options)) {
          const about = aboutRequest(call.request, response);
          audit.record({ caller, action: path, decision: 'ALLOWED', reason: 'OK', ...about });
        }
        return response;
      } catch (error) {
        if (isObject(error)) recorded.add(error);
        const about = { subject: aboutRequest(call.request).subject };
        if (isDenial(error)) audit.record({ ...denied(path, caller, error), ...about });
        else if (changesSomething(path, options)) {
          const outcome = { reason: reasonOf(error), message: messageOf(error) };
          audit.record({ caller, action: path, decision: 'ALLOWED', ...outcome, ...about });
        }
        throw error;
      }
    },
  };
}

/** Without the port, which is another one for each connection. */
export function addressOf(peer: string): string {
  return peer.replace(/:\d+$/, '');
}

function denied(action: string, caller: string, error: unknown) {
  const [reason, message] = [reasonOf(error), messageOf(error)];
  return { caller, action, decision: 'DENIED', reason, subject: '', message } as const;
}

/** A method that says nothing of itself is taken for one that does. */
function changesSomething(path: string, options: { readonly idempotencyLevel?: string }): boolean {
  if (options.idempotencyLevel === 'NO_SIDE_EFFECTS' || path === SHARING) return false;
  return !READING_SERVICES.some((service) => path.startsWith(`/${service}/`));
}

/**
 * What a request is about, in the words of its fields: those that may be secret are not among. The
 * id of a migration for which the caller chose none is in the response.
 */
function aboutRequest(request: unknown, response?: unknown): { subject: string; message: string } {
  const fields = fieldsOf(request);
  const header = fieldsOf(fields['header']);
  const spec = fieldsOf(fields['spec']);
  const migration = fieldsOf(fieldsOf(response)['migration']);
  const subject = first(
    header['migrationId'],
    header['domainUuid'],
    fields['migrationId'],
    migration['migrationId'],
    fields['domain'],
    spec['uuid'],
    spec['name'],
  );
  const details = (['domain', 'destinationHost', 'action', 'note', 'force'] as const).flatMap(
    (name) => {
      const value = fields[name];
      const said = typeof value === 'string' ? value !== '' && value !== subject : value === true;
      return said ? [`${name}: ${String(value)}`] : [];
    },
  );
  return { subject, message: details.join(', ') };
}

function fieldsOf(message: unknown): Record<string, unknown> {
  return isObject(message) ? (message as Record<string, unknown>) : {};
}

function first(...values: readonly unknown[]): string {
  return values.find((value): value is string => typeof value === 'string' && value !== '') ?? '';
}

function isDenial(error: unknown): boolean {
  return error instanceof ReasonedError && DENIALS.has(error.reason);
}

function reasonOf(error: unknown): string {
  if (error instanceof ReasonedError) return error.reason;
  // The library's own: a call that its caller has ended, for example.
  if (error instanceof ServerError) return 'REQUEST_INVALID';
  return isObject(error) && (error as Error).name === 'AbortError' ? 'CANCELLED_BY' : 'INTERNAL';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

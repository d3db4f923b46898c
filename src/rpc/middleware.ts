import type { CallContext, ServerMiddleware } from 'nice-grpc-common';
import { ServerError } from 'nice-grpc-common';
import type { Log } from '../util/log.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { authorize } from './authorization.js';
import { toServerError } from './error-status.js';
import { RpcError } from './errors.js';
import { assertNotExpired, type Caller, LOCAL_CALLER, readCaller } from './identity.js';
import { CERTIFICATE_KEY } from './interceptors.js';
import { HANDOVER_PATHS } from './peer-definition.js';

/*
 * What every call passes through, outermost first: errors become statuses, the caller is
 * identified, the call is logged, allowed or denied, and its signal is made one of ours.
 */

/** What every implementation finds in its context besides gRPC's own. */
export interface CallerContext {
  readonly caller: Caller;
}

/** Turns whatever an implementation throws into a status with details. */
export const answerErrors: ServerMiddleware = async function* answerErrors(call, context) {
  try {
    return yield* call.next(call.request, context);
  } catch (error) {
    throw error instanceof ServerError ? error : toServerError(error);
  }
};

/** Reads the caller from the certificate that the connection was made with. */
export function identifyByCertificate(
  trustDomain: string,
  log: Log,
): ServerMiddleware<CallerContext> {
  return async function* identify(call, context) {
    return yield* call.next(call.request, {
      ...context,
      caller: callerOf(context, call.method.path, trustDomain, log),
    });
  };
}

/** Whoever calls through the unix socket may open it, and that is all there is to know. */
export const identifyAsLocal: ServerMiddleware<CallerContext> = async function* identify(
  call,
  context,
) {
  return yield* call.next(call.request, { ...context, caller: LOCAL_CALLER });
};

/**
 * Logs every call at debug, and faults of our own, which no caller can do anything about, as
 * errors.
 */
export function logCalls(log: Log): ServerMiddleware<object, CallerContext> {
  return async function* logged(call, context) {
    const startedMs = performance.now();
    const { role, name } = context.caller;
    const fields = (reason: string) => ({
      method: call.method.path,
      caller: `${role}/${name}`,
      reason,
      duration_ms: Math.round(performance.now() - startedMs),
    });
    try {
      const response = yield* call.next(call.request, context);
      log.debug(fields('OK'), 'call answered');
      return response;
    } catch (error) {
      if (error instanceof ReasonedError) {
        log.debug({ ...fields(error.reason), err: error }, 'call failed');
      } else if (error instanceof ServerError || isAbort(error)) {
        log.debug({ ...fields('NONE'), err: error }, 'call failed');
      } else {
        log.error({ ...fields('INTERNAL'), err: error }, 'call failed by a fault');
      }
      throw error;
    }
  };
}

/** Lets through only what the caller's role may call. */
export const checkRole: ServerMiddleware<object, CallerContext> = async function* checkRole(
  call,
  context,
) {
  authorize(call.method.path, context.caller);
  return yield* call.next(call.request, context);
};

/**
 * Ends calls that only wait when the server is to stop, and gives every call a signal whose reason
 * is an error of ours.
 */
export class Terminator {
  readonly #calls = new Set<() => void>();
  readonly #waiting: (call: { readonly path: string; readonly responseStream: boolean }) => boolean;
  #terminated = false;

  /**
   * `waiting` says of which calls nothing is lost when they are ended, because they can be asked
   * again.
   */
  constructor(
    waiting: (call: { readonly path: string; readonly responseStream: boolean }) => boolean,
  ) {
    this.#waiting = waiting;
  }

  /** Ends the waiting calls, those under way and those that still come. */
  terminate(): void {
    this.#terminated = true;
    for (const end of this.#calls) end();
  }

  middleware(): ServerMiddleware<object, CallerContext> {
    const calls = this.#calls;
    const begin = (path: string, responseStream: boolean, end: () => void) => {
      if (!this.#waiting({ path, responseStream })) return;
      calls.add(end);
      if (this.#terminated) end();
    };
    return async function* terminable(call, context) {
      const controller = new AbortController();
      const isHost = context.caller.role === 'host';
      const onGone = () =>
        controller.abort(
          new RpcError(isHost ? 'PEER_LOST' : 'CANCELLED_BY', 'The caller ended the call.'),
        );
      const end = () =>
        controller.abort(
          new RpcError(
            isHost ? 'PEER_UNREACHABLE' : 'AGENT_UNREACHABLE',
            'This agent is shutting down.',
          ),
        );
      context.signal.addEventListener('abort', onGone, { once: true });
      if (context.signal.aborted) onGone();
      begin(call.method.path, call.responseStream, end);
      try {
        return yield* call.next(call.request, { ...context, signal: controller.signal });
      } catch (error) {
        // Libraries throw an AbortError of their own; the signal knows better why.
        throw isAbort(error) && controller.signal.aborted ? controller.signal.reason : error;
      } finally {
        calls.delete(end);
        context.signal.removeEventListener('abort', onGone);
      }
    };
  }
}

function callerOf(context: CallContext, method: string, trustDomain: string, log: Log): Caller {
  const certificate = context.metadata.get(CERTIFICATE_KEY);
  try {
    if (!certificate) throw new RpcError('PERMISSION_DENIED', 'The caller has no certificate.');
    // What ends a handover is not cut off: both hosts have begun it with certificates that were
    // good.
    if (!HANDOVER_PATHS.has(method)) assertNotExpired(certificate as Uint8Array);
    return readCaller(certificate as Uint8Array, trustDomain);
  } catch (error) {
    log.warn({ method, peer: context.peer, err: error }, 'caller refused');
    throw error;
  }
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError';
}

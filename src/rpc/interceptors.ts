import {
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
} from '@grpc/grpc-js';
import type { Log } from '../util/log.js';

/*
 * What must be done below nice-grpc, which shows its middleware neither the caller's certificate
 * nor the connection.
 */

/**
 * Where the certificate travels from the interceptor to the middleware, within this process only.
 */
export const CERTIFICATE_KEY = 'drover-certificate-bin';

/**
 * Hands the caller's certificate on as metadata, after it has removed whatever the caller itself
 * sent under that name.
 */
export const passCertificate: ServerInterceptor = (_method, call) =>
  new ServerInterceptingCall(call, {
    start(next) {
      next({
        onReceiveMetadata(metadata, forward) {
          metadata.remove(CERTIFICATE_KEY);
          const certificate = call.getAuthContext().sslPeerCertificate;
          if (certificate) metadata.set(CERTIFICATE_KEY, certificate.raw);
          forward(metadata);
        },
      });
    },
  });

/** The part of an HTTP/2 session that is needed here. */
interface Session {
  setLocalWindowSize(sizeBytes: number): void;
  settings(settings: { initialWindowSize: number }): void;
}

/**
 * Widens the receive window of connections on which one of the paths is called. grpc-js has a
 * setting for clients only; a server takes 64 KiB for each round trip otherwise. It must be the
 * first interceptor, because it looks into the call for a private field; should a new version of
 * grpc-js lack it, streams are slow on long ways and nothing else.
 */
export function widenWindow(
  paths: ReadonlySet<string>,
  windowBytes: number,
  log: Log,
): ServerInterceptor {
  const widened = new WeakSet<Session>();
  let warned = false;
  return (method, call) => {
    if (paths.has(method.path)) {
      const session = sessionOf(call);
      if (session && !widened.has(session)) {
        widened.add(session);
        session.setLocalWindowSize(windowBytes);
        session.settings({ initialWindowSize: windowBytes });
      }
      if (!session && !warned) {
        warned = true;
        log.warn({ method: method.path }, 'the receive window cannot be widened');
      }
    }
    return new ServerInterceptingCall(call);
  };
}

function sessionOf(call: ServerInterceptingCallInterface): Session | undefined {
  const session = (call as { stream?: { session?: Partial<Session> } }).stream?.session;
  if (typeof session?.setLocalWindowSize !== 'function') return undefined;
  return typeof session.settings === 'function' ? (session as Session) : undefined;
}

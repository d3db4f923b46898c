import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js';

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

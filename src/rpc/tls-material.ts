import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { checkServerIdentity, createSecureContext, type PeerCertificate } from 'node:tls';
import { RpcError } from './errors.js';
import { type Identity, readIdentity, TLS_NAME } from './identity.js';

/*
 * Certificates as every end of a connection uses them. No gRPC is loaded with this: the worker that
 * carries streams has no use for it.
 */

/** Paths of PEM files. */
export interface TlsFiles {
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
}

/** What stands in those files. */
export interface TlsMaterial {
  readonly certificate: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
  /** Whom the certificate names. */
  readonly identity: Identity;
}

/** What stands in them now, for whoever keeps on making connections. */
export interface CurrentTls {
  readonly material: TlsMaterial;
  /** Tells of what stands in them from then on; the answer ends that. */
  onChange(listener: (material: TlsMaterial) => void): () => void;
}

/** Where connections take certificates from: read for each one, or kept. */
export type TlsSource = TlsFiles | CurrentTls;

/** Whom the other end of a connection must be. */
export interface ExpectedAgent {
  readonly trustDomain: string;
  /** Undefined accepts the agent of any host. */
  readonly host: string | undefined;
}

/** The lowest version of TLS that is spoken. */
export const MIN_VERSION = 'TLSv1.3';

/**
 * What a new connection shall use.
 *
 * @throws RpcError as `readTlsFiles`
 */
export function materialNow(tls: TlsSource): TlsMaterial {
  return 'material' in tls ? tls.material : readTlsFiles(tls);
}

/**
 * Reads certificate, key and CA.
 *
 * @throws RpcError `CONFIG_INVALID`, naming the file; `PERMISSION_DENIED` for a certificate that
 *   names nobody
 */
export function readTlsFiles(files: TlsFiles): TlsMaterial {
  const material = {
    certificate: readPem('certificate', files.certificate),
    key: readPem('key', files.key),
    ca: readPem('CA', files.ca),
  };
  assertWhole('certificate', files.certificate, material.certificate);
  assertWhole('CA', files.ca, material.ca);
  try {
    createSecureContext(contextOptions(material));
  } catch (error) {
    throw new RpcError(
      'CONFIG_INVALID',
      `${files.certificate} and ${files.key} are no certificate and its key: ${text(error)}.`,
      { cause: error },
    );
  }
  return { ...material, identity: readIdentity(material.certificate) };
}

/** From when until when the certificate is good. */
export function lifeOf({ certificate }: TlsMaterial): { notBefore: Date; notAfter: Date } {
  const { validFrom, validTo } = new X509Certificate(certificate);
  return { notBefore: new Date(validFrom), notAfter: new Date(validTo) };
}

/**
 * The settings of TLS itself, the same for channels and for the probe that explains why one failed.
 */
export function contextOptions(material: Omit<TlsMaterial, 'identity'>) {
  return {
    ca: material.ca,
    cert: material.certificate,
    key: material.key,
    minVersion: MIN_VERSION,
  } as const;
}

/**
 * Checks the certificate of the agent that answered, after TLS has found it to be of the CA. The
 * answer is the error that TLS shall end the connection with.
 */
export function checkAgent(
  expected: ExpectedAgent,
): (host: string, certificate: PeerCertificate) => Error | undefined {
  return (_host, certificate) => {
    const wrongName = checkServerIdentity(TLS_NAME, certificate);
    if (wrongName) {
      return rejected(`The agent's certificate lacks the DNS name "${TLS_NAME}".`, wrongName);
    }
    try {
      return checkIdentity(readIdentity(certificate.raw), expected);
    } catch (error) {
      return rejected(text(error), error);
    }
  };
}

function checkIdentity(identity: Identity, expected: ExpectedAgent): RpcError | undefined {
  if (identity.role !== 'host') {
    return rejected(`The certificate is of the ${identity.role} ${identity.name}, not of a host.`);
  }
  if (identity.trustDomain !== expected.trustDomain) {
    return rejected(
      `The agent's certificate is of ${identity.trustDomain}, ours is of ${expected.trustDomain}.`,
    );
  }
  if (expected.host !== undefined && identity.name !== expected.host) {
    return rejected(`The agent is that of ${identity.name}, not of ${expected.host}.`);
  }
  return undefined;
}

function readPem(what: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new RpcError(
      'CONFIG_INVALID',
      `The ${what} file ${path} cannot be read: ${text(error)}.`,
      {
        cause: error,
      },
    );
  }
}

/** OpenSSL takes what it can read of a file that is cut off, and forgets whom it shall trust. */
function assertWhole(what: string, path: string, pem: Buffer): void {
  const text = pem.toString('latin1');
  const count = (pattern: RegExp) => text.match(pattern)?.length ?? 0;
  const whole = count(/-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g);
  const begun = count(/-----BEGIN CERTIFICATE-----/g);
  if (whole > 0 && whole === begun && count(/-----BEGIN /g) === count(/-----END [A-Z ]+-----/g)) {
    return;
  }
  throw new RpcError('CONFIG_INVALID', `The ${what} file ${path} holds no whole certificates.`);
}

function rejected(message: string, cause?: unknown): RpcError {
  return new RpcError('TLS_PEER_REJECTED', message, { cause });
}

function text(error: unknown): string {
  return error instanceof Error ? error.message.replace(/\.$/, '') : String(error);
}

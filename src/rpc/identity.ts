import { X509Certificate } from 'node:crypto';
import { RpcError } from './errors.js';

/*
 * Who somebody is, by certificate: exactly one URI `spiffe://<trust domain>/<role>/<name>`.
 * Everything else in a certificate is for the CA and for TLS.
 */

/** What a certificate is for. */
export type Role = 'host' | 'operator';

/** Whom a call comes from. Callers on the unix socket are the operator `local`. */
export interface Caller {
  readonly role: Role;
  readonly name: string;
}

/** What a certificate says of its owner. */
export interface Identity extends Caller {
  readonly trustDomain: string;
}

/** The caller on the unix socket: whoever may open it may do what an operator may. */
export const LOCAL_CALLER: Caller = { role: 'operator', name: 'local' };

const IDENTITY =
  /^spiffe:\/\/([a-z0-9._-]{1,255})\/(host|operator)\/([A-Za-z0-9][A-Za-z0-9._-]{0,62})$/;

/**
 * Reads the identity in a certificate.
 *
 * @param certificate DER or PEM
 * @throws RpcError `PERMISSION_DENIED` where there is not exactly one URI, or one that names nobody
 */
export function readIdentity(certificate: Uint8Array): Identity {
  const uris = uriNames(parseCertificate(certificate).subjectAltName ?? '');
  const [uri, ...others] = uris;
  if (uri === undefined || others.length > 0) {
    throw denied(
      uris.length === 0
        ? 'The certificate has no URI as alternative name.'
        : `The certificate has ${uris.length} URIs as alternative names; it must have exactly one.`,
    );
  }
  const [, trustDomain, role, name] = IDENTITY.exec(uri) ?? [];
  if (trustDomain === undefined || role === undefined || name === undefined) {
    throw denied(
      `The certificate names ${JSON.stringify(uri)}, which is neither host nor operator.`,
    );
  }
  return { trustDomain, role: role as Role, name };
}

/**
 * The same, for a caller who must be of our trust domain.
 *
 * @throws RpcError `PERMISSION_DENIED`
 */
export function readCaller(certificate: Uint8Array, trustDomain: string): Caller {
  const identity = readIdentity(certificate);
  if (identity.trustDomain !== trustDomain) {
    throw denied(`The certificate is of ${identity.trustDomain}, this agent is of ${trustDomain}.`);
  }
  return { role: identity.role, name: identity.name };
}

/** Writes an identity as it stands in certificates. */
export function formatIdentity({ trustDomain, role, name }: Identity): string {
  return `spiffe://${trustDomain}/${role}/${name}`;
}

/**
 * The URIs among the alternative names, as Node prints them: `DNS:a, URI:b`, where a name with a
 * comma or a quote in it is printed as a JSON string. Text that is not of this form yields no URI
 * at all, so that nothing can be smuggled in by a name that looks like several.
 */
export function uriNames(subjectAltName: string): readonly string[] {
  const entry = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
  const uris: string[] = [];
  while (entry.lastIndex < subjectAltName.length) {
    const match = entry.exec(subjectAltName);
    if (!match) return [];
    const [, type, value = ''] = match;
    if (type === 'URI') uris.push(value.startsWith('"') ? (JSON.parse(value) as string) : value);
  }
  return uris;
}

function parseCertificate(certificate: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(certificate);
  } catch (error) {
    throw new RpcError('PERMISSION_DENIED', 'The certificate cannot be read.', { cause: error });
  }
}

function denied(message: string): RpcError {
  return new RpcError('PERMISSION_DENIED', message);
}

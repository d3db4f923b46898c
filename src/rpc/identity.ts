import { X509Certificate } from 'node:crypto';
import { RpcError } from './errors.js';

/*
 * Who somebody is, by certificate: exactly one URI `spiffe://<trust domain>/<role>/<name>`.
 * Everything else in a certificate is for the CA and for TLS.
 */

/** What certificates are for. */
export const ROLES = ['host', 'scheduler', 'operator', 'observer'] as const;

/** What a certificate is for. */
export type Role = (typeof ROLES)[number];

/** Whom a call comes from. Callers on the unix socket are the operator `local`. */
export interface Caller {
  readonly role: Role;
  readonly name: string;
}

/** What a certificate says of its owner. */
export interface Identity extends Caller {
  readonly trustDomain: string;
}

/**
 * The DNS name that every agent's certificate carries, because TLS checks one before we check the
 * URI.
 */
export const TLS_NAME = 'drover';

/** The caller on the unix socket: whoever may open it may do what an operator may. */
export const LOCAL_CALLER: Caller = { role: 'operator', name: 'local' };

/** How much of a name that is none of ours is shown, in characters. */
const SHOWN = 200;

const IDENTITY = new RegExp(
  `^spiffe://([a-z0-9._-]{1,255})/(${ROLES.join('|')})/([A-Za-z0-9][A-Za-z0-9._-]{0,62})$`,
);

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
  const identity = parseIdentity(uri);
  if (!identity) {
    const shown = JSON.stringify(uri.slice(0, SHOWN));
    throw denied(`The certificate names ${shown}, which is none of ${ROLES.join(', ')}.`);
  }
  return identity;
}

/** Reads the URI of an identity; undefined where it names nobody. */
export function parseIdentity(uri: string): Identity | undefined {
  const [, trustDomain, role, name] = IDENTITY.exec(uri) ?? [];
  if (trustDomain === undefined || role === undefined || name === undefined) return undefined;
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

/**
 * Makes sure that a certificate's time is not over. TLS has done so when the connection was made,
 * but a connection may stand for longer than its certificate is good.
 *
 * @throws RpcError `PERMISSION_DENIED`
 */
export function assertNotExpired(certificate: Uint8Array): void {
  const { validTo } = parseCertificate(certificate);
  if (Date.now() <= Date.parse(validTo)) return;
  throw denied(`The certificate has expired (${validTo}). Connect again with a new one.`);
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

import type { X509Certificate } from 'node:crypto';
import { type Identity, parseIdentity, ROLES, TLS_NAME } from '../rpc/identity.js';
import type { Findings } from './findings.js';
import { type Contents, contentsOf } from './signing.js';

const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';

/** Checks what must stand in a leaf, as the table in docs/certificates.md has it. */
export function checkLeaf(
  certificate: X509Certificate,
  { problems }: Findings,
): Identity | undefined {
  let contents: Contents;
  try {
    contents = contentsOf(certificate);
  } catch {
    problems.push('Its extensions are damaged.');
    return undefined;
  }
  const [uri, ...others] = contents.uris;
  if (uri === undefined) {
    problems.push('It names nobody: there is no URI among its alternative names.');
  } else if (others.length > 0) {
    problems.push(
      `It has ${contents.uris.length} URIs where exactly one is accepted: ${contents.uris.map((other) => JSON.stringify(other)).join(', ')}.`,
    );
  }
  const identity = uri === undefined || others.length > 0 ? undefined : parseIdentity(uri);
  if (uri !== undefined && others.length === 0 && !identity) {
    problems.push(
      `Its URI ${JSON.stringify(uri)} is not spiffe://<trust domain>/<role>/<name> with a role of ${ROLES.join(', ')}.`,
    );
  }
  const isHost = identity?.role === 'host';
  if (isHost && !contents.dnsNames.includes(TLS_NAME)) {
    problems.push(`The DNS name "${TLS_NAME}" is missing, by which callers know an agent.`);
  }
  // A certificate that does not say what it is for is for everything.
  const usages = certificate.keyUsage;
  if (usages && !usages.includes(CLIENT_AUTH)) {
    problems.push('It is not for clients: the extended key usage clientAuth is missing.');
  }
  if (usages && isHost && !usages.includes(SERVER_AUTH)) {
    problems.push('It is not for servers: the extended key usage serverAuth is missing.');
  }
  if (!contents.maySign) {
    problems.push('Its key may not sign: the key usage digitalSignature is missing.');
  }
  return identity;
}

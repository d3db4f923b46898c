import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Authority,
  type NewAuthority,
  type PemPair,
  makeAuthority as signAuthority,
  makeLeaf as signNewLeaf,
} from '../../src/pki/signing.js';
import { formatIdentity, type Role } from '../../src/rpc/identity.js';

/** The paths of one certificate, its key and the CA, as an agent's `tls` section wants them. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
}

/** What is to stand in a leaf: anything, also what no agent accepts. */
export interface LeafRequest {
  readonly commonName: string;
  /** The URIs; an agent expects exactly one. */
  readonly uris: readonly string[];
  /** The DNS names; the default is the one that every agent must carry, `drover`. */
  readonly dnsNames?: readonly string[];
  /** Which ends of a connection it is for; the default is both. */
  readonly usages?: readonly ('server' | 'client')[];
  /**
   * How long it is valid from now, in days; negative makes one that has expired. The default is
   * 825.
   */
  readonly days?: number;
  /** From when it is valid, where that is not now. */
  readonly notBefore?: Date;
}

/** Certificates in a folder of their own, removed with it. */
export interface TestCertificates extends AsyncDisposable {
  readonly directory: string;
  /** The CA itself, to sign what `leaf` cannot. */
  readonly authority: NewAuthority;
  /** Files of a host's certificate, made when first asked for. */
  host(name: string): Promise<CertificateFiles>;
  /** Files of an operator's certificate. */
  operator(name: string): Promise<CertificateFiles>;
  /** Files of a certificate of any role. */
  named(role: Role, name: string): Promise<CertificateFiles>;
  /** Files of a certificate with anything in it. */
  leaf(fileName: string, request: LeafRequest): Promise<CertificateFiles>;
}

/** Makes a CA of its own; two of them do not trust each other. */
export async function makeTestCertificates(trustDomain = 'drover.test'): Promise<TestCertificates> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-certificates-'));
  const authority = await makeAuthority('Drover test CA');
  await writeFile(join(directory, 'ca.crt'), authority.pem.certificate);
  await writeFile(join(directory, 'ca.key'), authority.pem.key, { mode: 0o600 });
  const made = new Map<string, Promise<CertificateFiles>>();
  const leaf = (fileName: string, request: LeafRequest): Promise<CertificateFiles> => {
    const files =
      made.get(fileName) ??
      makeLeaf(authority, request).then((pair) => writePair(directory, fileName, pair));
    made.set(fileName, files);
    return files;
  };
  const named = (role: Role, name: string) =>
    leaf(`${role}-${name}`, { commonName: name, uris: [identityUri(role, name, trustDomain)] });
  return {
    directory,
    authority,
    host: (name) => named('host', name),
    operator: (name) => named('operator', name),
    named,
    leaf,
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}

/** Makes a CA that is valid for ten years, signed by itself or by another one. */
export async function makeAuthority(commonName: string, issuer?: Authority): Promise<NewAuthority> {
  const pathLength = issuer ? 0 : 1;
  return await signAuthority({
    commonName,
    days: 3650,
    pathLength,
    ...(issuer ? { issuer } : {}),
  });
}

/** Makes a leaf and its key. */
export async function makeLeaf(authority: Authority, request: LeafRequest): Promise<PemPair> {
  return await signNewLeaf(authority, {
    dnsNames: ['drover'],
    usages: ['server', 'client'],
    days: 825,
    ...request,
  });
}

/** Writes a leaf as `<name>.crt` and `<name>.key`; its CA is taken to be `ca.crt` beside it. */
export async function writePair(
  directory: string,
  name: string,
  pair: PemPair,
): Promise<CertificateFiles> {
  await mkdir(directory, { recursive: true });
  const files = {
    certificate: join(directory, `${name}.crt`),
    key: join(directory, `${name}.key`),
    ca: join(directory, 'ca.crt'),
  };
  await writeFile(files.certificate, pair.certificate);
  await writeFile(files.key, pair.key, { mode: 0o600 });
  return files;
}

/** The URI that names somebody in a certificate. */
export function identityUri(role: Role, name: string, trustDomain = 'drover.test'): string {
  return formatIdentity({ trustDomain, role, name });
}

import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';

/*
 * Certificates for development and for tests: a CA of its own and leafs in the form that agents
 * expect. In production any CA will do that can put the same names into its leafs; see
 * certs/README.md.
 */

x509.cryptoProvider.set(webcrypto);

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY_MS = 24 * 60 * 60 * 1000;

/** A certificate and its key, both in PEM. */
export interface PemPair {
  readonly certificate: string;
  readonly key: string;
}

/** A CA that can sign leafs. */
export interface Authority {
  readonly certificate: x509.X509Certificate;
  readonly keys: webcrypto.CryptoKeyPair;
}

/** What is to stand in a leaf. */
export interface LeafRequest {
  readonly commonName: string;
  /** The URIs; an agent expects exactly one. */
  readonly uris: readonly string[];
  /** The DNS names; the default is the one that every agent must carry, `drover`. */
  readonly dnsNames?: readonly string[];
  /**
   * How long it is valid from now, in days; negative makes one that has expired. The default is
   * 825.
   */
  readonly days?: number;
}

/** Makes a CA that is valid for ten years. */
export async function makeAuthority(commonName: string): Promise<Authority> {
  const keys = await makeKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [commonName] }],
    ...validity(3650),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate, keys };
}

/** Makes a leaf for both ends of a TLS connection; QEMU accepts the same form. */
export async function makeLeaf(authority: Authority, request: LeafRequest): Promise<PemPair> {
  const keys = await makeKeys();
  const names = [
    ...(request.dnsNames ?? ['drover']).map((value) => ({ type: 'dns' as const, value })),
    ...request.uris.map((value) => ({ type: 'url' as const, value })),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ CN: [request.commonName] }],
    issuer: authority.certificate.subject,
    ...validity(request.days ?? 825),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: authority.keys.privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        x509.ExtendedKeyUsage.serverAuth,
        x509.ExtendedKeyUsage.clientAuth,
      ]),
      new x509.SubjectAlternativeNameExtension(names),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(authority.keys.publicKey),
    ],
  });
  return {
    certificate: certificate.toString('pem'),
    key: await exportKey(keys.privateKey),
  };
}

/** The paths of one certificate, its key and the CA, as an agent's `tls` section wants them. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
}

/** Writes a leaf as `<name>.crt` and `<name>.key`; the key is readable by its owner only. */
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
  await writeFile(files.certificate, `${pair.certificate}\n`);
  await writeKey(files.key, pair.key);
  return files;
}

/** Writes the CA as `ca.crt`, and its key as `ca.key`, readable by its owner only. */
export async function writeAuthority(directory: string, authority: Authority): Promise<void> {
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'ca.crt'), `${authority.certificate.toString('pem')}\n`);
  await writeKey(join(directory, 'ca.key'), await exportKey(authority.keys.privateKey));
}

/** The URI that names a host or an operator in a certificate. */
export function identityUri(
  role: 'host' | 'operator',
  name: string,
  trustDomain = 'drover.test',
): string {
  return `spiffe://${trustDomain}/${role}/${name}`;
}

// An old file is removed first, because a mode is given to new files only.
async function writeKey(path: string, key: string): Promise<void> {
  await rm(path, { force: true });
  await writeFile(path, `${key}\n`, { mode: 0o600 });
}

async function makeKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}

// A positive number: the first byte of an ASN.1 integer carries the sign.
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

// A minute back, because the clocks of two hosts never agree exactly.
function validity(days: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  const notAfter = new Date(now + days * DAY_MS);
  return { notBefore: new Date(Math.min(now, notAfter.getTime()) - 60_000), notAfter };
}

import 'reflect-metadata';
import {
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  randomBytes,
  webcrypto,
} from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { keyProblem, keyType } from './keys.js';

/*
 * Making certificates. The only file that knows the library; it takes a tenth of a second to load,
 * so it is imported when a command needs it.
 */

x509.cryptoProvider.set(webcrypto);

const DAY_MS = 24 * 60 * 60 * 1000;
/** What is new is valid from a while ago, because the clocks of two hosts never agree exactly. */
const BACKDATE_MS = 60_000;

/** How our own keys are made: small, fast, and known to everything that speaks TLS 1.3. */
const OWN_KEYS = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

type Algorithm = webcrypto.EcKeyImportParams & { readonly hash?: string };

/** A certificate and its key, both in PEM. */
export interface PemPair {
  readonly certificate: string;
  readonly key: string;
}

/** A CA that can sign. */
export interface Authority {
  readonly certificate: x509.X509Certificate;
  readonly signingKey: webcrypto.CryptoKey;
  readonly algorithm: Algorithm;
}

/** A CA that was just made; its key can be written. */
export interface NewAuthority extends Authority {
  readonly pem: PemPair;
}

/** When a certificate is valid. Without an end it is valid for `days` from now. */
interface Validity {
  /** In days; negative makes a certificate that has expired. */
  readonly days?: number;
  readonly notBefore?: Date;
  readonly notAfter?: Date;
}

/** What is to stand in the certificate of a CA. */
export interface AuthorityRequest extends Validity {
  readonly commonName: string;
  /** A URI that names what it speaks for, if any. */
  readonly uri?: string;
  /** The CA that signs it; it signs itself where there is none. */
  readonly issuer?: Authority;
  /** How many CAs may stand between it and a leaf; the default is none. */
  readonly pathLength?: number;
}

/** What is to stand in a leaf. Nothing is checked: it may be one that no agent accepts. */
export interface LeafRequest extends Validity {
  /** Empty for no subject at all. */
  readonly commonName: string;
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Which ends of a TLS connection it is for. */
  readonly usages: readonly ('server' | 'client')[];
}

/** Makes a CA with a key of its own. */
export async function makeAuthority(request: AuthorityRequest): Promise<NewAuthority> {
  const keys = await makeKeys();
  const { issuer } = request;
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ CN: [request.commonName] }],
    issuer: issuer?.certificate.subjectName ?? [{ CN: [request.commonName] }],
    ...validity(request),
    signingAlgorithm: issuer?.algorithm ?? OWN_KEYS,
    publicKey: keys.publicKey,
    signingKey: issuer?.signingKey ?? keys.privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(true, request.pathLength ?? 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      ...(request.uri === undefined
        ? []
        : [new x509.SubjectAlternativeNameExtension([{ type: 'url', value: request.uri }])]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ...(await issuedBy(issuer)),
    ],
  });
  return {
    certificate,
    signingKey: keys.privateKey,
    algorithm: OWN_KEYS,
    pem: { certificate: toPem(certificate), key: await exportKey(keys.privateKey) },
  };
}

/**
 * Makes a CA of its certificate and its key, both in PEM.
 *
 * @throws Error where one of them cannot be read, or the key is of a kind that nobody signs with
 */
export async function openAuthority({ certificate, key }: PemPair): Promise<Authority> {
  const privateKey = createPrivateKey(key);
  const algorithm = algorithmOf(privateKey);
  const pkcs8 = privateKey.export({ type: 'pkcs8', format: 'der' });
  return {
    certificate: new x509.X509Certificate(certificate),
    signingKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, false, ['sign']),
    algorithm,
  };
}

/** Makes a leaf and a key for it. */
export async function makeLeaf(authority: Authority, request: LeafRequest): Promise<PemPair> {
  const keys = await makeKeys();
  return {
    certificate: await signLeaf(authority, request, new x509.PublicKey(await spki(keys))),
    key: await exportKey(keys.privateKey),
  };
}

/** Makes a leaf for the key of somebody else; answers it in PEM. */
export async function signLeaf(
  authority: Authority,
  request: LeafRequest,
  publicKey: x509.PublicKey,
): Promise<string> {
  const names = [
    ...request.dnsNames.map((value) => ({ type: 'dns' as const, value })),
    ...request.uris.map((value) => ({ type: 'url' as const, value })),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: request.commonName === '' ? [] : [{ CN: [request.commonName] }],
    issuer: authority.certificate.subjectName,
    ...validity(request),
    signingAlgorithm: authority.algorithm,
    publicKey,
    signingKey: authority.signingKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(request.usages.map((usage) => USAGES[usage])),
      ...(names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(names)]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      ...(await issuedBy(authority)),
    ],
  });
  return toPem(certificate);
}

const USAGES = {
  server: x509.ExtendedKeyUsage.serverAuth,
  client: x509.ExtendedKeyUsage.clientAuth,
} as const;

/**
 * The public key in a certificate signing request, PEM or DER. Whoever made the request has shown
 * that they hold its key; all names in it are left alone.
 *
 * @throws Error where it cannot be read or is not signed with its own key
 */
export async function readSigningRequest(contents: Buffer): Promise<x509.PublicKey> {
  const isPem = contents.includes('-----BEGIN');
  const request = new x509.Pkcs10CertificateRequest(isPem ? contents.toString('latin1') : contents);
  if (!(await request.verify())) throw new Error('it is not signed with its own key');
  const key = createPublicKey({
    key: Buffer.from(request.publicKey.rawData),
    format: 'der',
    type: 'spki',
  });
  const problem = keyProblem(key);
  if (problem) throw new Error(`it has ${problem}`);
  return request.publicKey;
}

/** What a certificate says beyond what Node reads of it. */
export interface Contents {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Its key may sign, as everybody does who speaks TLS 1.3. */
  readonly maySign: boolean;
}

/**
 * Reads the alternative names in a certificate as they stand in it, and what its key is for.
 *
 * @throws Error where an extension is damaged
 */
export function contentsOf({ raw }: { readonly raw: Uint8Array }): Contents {
  const certificate = new x509.X509Certificate(Buffer.from(raw));
  const names = certificate.getExtension(x509.SubjectAlternativeNameExtension)?.names.items ?? [];
  const usages = certificate.getExtension(x509.KeyUsagesExtension)?.usages;
  const of = (wanted: string) =>
    names.filter(({ type }) => type === wanted).map(({ value }) => value);
  return {
    uris: of('url'),
    dnsNames: of('dns'),
    maySign: usages === undefined || (usages & x509.KeyUsageFlags.digitalSignature) !== 0,
  };
}

async function issuedBy(
  issuer: Authority | undefined,
): Promise<x509.AuthorityKeyIdentifierExtension[]> {
  if (!issuer) return [];
  // Names the key as the CA's own certificate does: some CAs do not use the common way.
  const known = issuer.certificate.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId;
  return [
    known
      ? new x509.AuthorityKeyIdentifierExtension(known)
      : await x509.AuthorityKeyIdentifierExtension.create(issuer.certificate.publicKey),
  ];
}

/** How a key of this kind signs. */
function algorithmOf(key: KeyObject): Algorithm {
  const known = ALGORITHMS.get(keyType(key).replace(/^RSA .*/, 'RSA'));
  if (known) return known as Algorithm;
  throw new Error(`keys of the kind ${keyType(key)} are not known here`);
}

const ALGORITHMS: ReadonlyMap<string, object> = new Map<string, object>([
  ['EC P-256', OWN_KEYS],
  ['EC P-384', { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' }],
  ['EC P-521', { name: 'ECDSA', namedCurve: 'P-521', hash: 'SHA-512' }],
  ['RSA', { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }],
  ['Ed25519', { name: 'Ed25519' }],
]);

async function makeKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(OWN_KEYS, true, ['sign', 'verify']);
}

async function spki({ publicKey }: webcrypto.CryptoKeyPair): Promise<ArrayBuffer> {
  return await webcrypto.subtle.exportKey('spki', publicKey);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', key);
  return `${x509.PemConverter.encode(pkcs8, 'PRIVATE KEY')}\n`;
}

function toPem(certificate: x509.X509Certificate): string {
  return `${certificate.toString('pem')}\n`;
}

// A positive number: the first byte of an ASN.1 integer carries the sign.
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

function validity({ days = 0, notBefore, notAfter }: Validity): {
  notBefore: Date;
  notAfter: Date;
} {
  const now = Date.now();
  const end = notAfter ?? new Date(now + days * DAY_MS);
  return {
    notBefore: notBefore ?? new Date(Math.min(now, end.getTime()) - BACKDATE_MS),
    notAfter: end,
  };
}

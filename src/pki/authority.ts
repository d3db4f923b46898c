import { randomBytes, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { parseIdentity } from '../rpc/identity.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { createFiles, openDirectory, PUBLIC, readIfThere, SECRET } from './files.js';
import { CA_FILES, PKI_DIRECTORY } from './names.js';
import {
  certificatesIn,
  isIssuedBy,
  isSelfSigned,
  nameInOneLine,
  type PemCertificate,
  privateKeyIn,
} from './pem.js';
import { type Authority, contentsOf, makeAuthority, openAuthority } from './signing.js';

/** What kind of CA is wanted. */
export interface AuthoritySettings {
  readonly directory: string;
  readonly trustDomain: string;
  /** How long it lives. */
  readonly days: number;
}

/** A CA that was just made. */
export interface MadeAuthority {
  readonly trustDomain: string;
  readonly notAfter: Date;
  readonly fingerprintSha256: string;
  readonly certificateFile: string;
  readonly keyFile: string;
}

/** The CA in a folder, opened to sign. */
export interface OpenAuthority {
  readonly authority: Authority;
  /** Undefined where its certificate names none, as that of a CA from elsewhere. */
  readonly trustDomain: string | undefined;
  readonly notAfter: Date;
  /** What goes with each leaf, in PEM: the CAs between it and a root, nothing where it is one. */
  readonly chain: string;
  /** What is to be trusted, in PEM: all roots in its file, so that two can overlap. */
  readonly roots: string;
}

/**
 * Makes a CA in a folder. It never replaces one: every certificate in use would be worthless.
 *
 * @throws ReasonedError `REQUEST_INVALID` for a trust domain that is none, `CONFIG_INVALID` where
 *   there is a CA, or the folder is not fit for one
 */
export async function initAuthority(settings: AuthoritySettings): Promise<MadeAuthority> {
  const { directory, trustDomain, days } = settings;
  checkTrustDomain(trustDomain);
  await openDirectory(directory);
  const paths = pathsIn(directory);
  for (const path of [paths.certificate, paths.key]) {
    if (await readIfThere(path)) throw alreadyThere(path, directory);
  }
  const { pem } = await makeAuthority({
    // Two CAs of one fleet overlap when one follows the other; people tell them apart by this.
    commonName: `Drover CA ${randomBytes(4).toString('hex')}`,
    // A constraint on the names it may sign would say more, but not all who verify know one for
    // URIs: OpenSSL does, GnuTLS looks away, and rustls refuses whatever such a CA has signed.
    uri: trustDomainUri(trustDomain),
    days,
  });
  await createFiles([
    { path: paths.key, contents: pem.key, mode: SECRET },
    { path: paths.certificate, contents: pem.certificate, mode: PUBLIC },
  ]);
  const certificate = new X509Certificate(pem.certificate);
  return {
    trustDomain,
    notAfter: new Date(certificate.validTo),
    fingerprintSha256: certificate.fingerprint256,
    certificateFile: paths.certificate,
    keyFile: paths.key,
  };
}

/**
 * Opens the CA in a folder. Its file may hold several certificates: the one that fits `ca.key`
 * signs, and all roots are handed on as those to trust.
 *
 * @throws ReasonedError `CONFIG_INVALID` where there is none, or its files do not fit
 */
export async function readAuthority(directory: string): Promise<OpenAuthority> {
  const paths = pathsIn(directory);
  const [certificatePem, keyPem] = [
    await readIfThere(paths.certificate),
    await readIfThere(paths.key),
  ];
  if (!certificatePem || !keyPem) {
    const missing = certificatePem ? paths.key : paths.certificate;
    const name = directory === PKI_DIRECTORY ? '' : ` ${directory}`;
    throw new ReasonedError('CONFIG_INVALID', `There is no CA in ${directory}: no ${missing}.`, {
      hint: `Make one with \`drover pki init${name}\`, or name its folder with --dir.`,
    });
  }
  const known = readAll(paths.certificate, certificatePem);
  const key = privateKeyIn(keyPem);
  const signer = key && known.find(({ certificate }) => certificate.checkPrivateKey(key));
  if (!signer?.certificate.ca) {
    throw unusable(`${paths.certificate} holds no CA that ${paths.key} is the key of.`);
  }
  const roots = known.filter(({ certificate }) => isSelfSigned(certificate));
  if (roots.length === 0) {
    const issuer = nameInOneLine(signer.certificate.issuer);
    throw unusable(`${paths.certificate} holds no root: append that of ${issuer}.`);
  }
  return {
    authority: await open(paths.key, signer.pem, keyPem.toString('latin1')),
    trustDomain: trustDomainOf(signer.certificate),
    notAfter: new Date(signer.certificate.validTo),
    chain: chainOf(signer, known),
    roots: roots.map(({ pem }) => pem).join(''),
  };
}

/** The trust domain that the certificate of a CA names, if it does. */
export function trustDomainOf(certificate: X509Certificate): string | undefined {
  const { uris } = contentsOf(certificate);
  const trustDomain = uris.length === 1 ? uris[0]?.slice('spiffe://'.length) : undefined;
  return trustDomain && uris[0] === trustDomainUri(trustDomain) ? trustDomain : undefined;
}

/** @throws ReasonedError `REQUEST_INVALID` for a text that is no trust domain */
export function checkTrustDomain(trustDomain: string): void {
  if (parseIdentity(`${trustDomainUri(trustDomain)}/host/a`)?.trustDomain === trustDomain) return;
  throw new ReasonedError('REQUEST_INVALID', `${JSON.stringify(trustDomain)} is no trust domain.`, {
    hint: 'Give a name such as drover.example: small letters, digits, dots, dashes.',
  });
}

function trustDomainUri(trustDomain: string): string {
  return `spiffe://${trustDomain}`;
}

function chainOf(signer: PemCertificate, known: readonly PemCertificate[]): string {
  const chain = new Set<PemCertificate>();
  let link: PemCertificate | undefined = signer;
  while (link && !chain.has(link) && !isSelfSigned(link.certificate)) {
    chain.add(link);
    link = issuerOf(link, known);
  }
  return [...chain].map(({ pem }) => pem).join('');
}

function issuerOf(
  { certificate }: PemCertificate,
  known: readonly PemCertificate[],
): PemCertificate | undefined {
  return known.find((other) => isIssuedBy(certificate, other.certificate));
}

function pathsIn(directory: string): { certificate: string; key: string } {
  return {
    certificate: join(directory, CA_FILES.certificate),
    key: join(directory, CA_FILES.key),
  };
}

function readAll(path: string, contents: Buffer): readonly PemCertificate[] {
  try {
    return certificatesIn(contents);
  } catch (cause) {
    throw unusable(`${path} cannot be read as certificates.`, cause);
  }
}

async function open(path: string, certificate: string, key: string): Promise<Authority> {
  try {
    return await openAuthority({ certificate, key });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw unusable(`The CA cannot sign with ${path}: ${why}.`, cause);
  }
}

function alreadyThere(path: string, directory: string): ReasonedError {
  return new ReasonedError('CONFIG_INVALID', `${path} is there already; it is not replaced.`, {
    hint:
      `Issue from it with \`drover pki issue --dir ${directory}\`. A new CA goes to another folder; ` +
      'docs/certificates.md says how a fleet moves to it.',
  });
}

function unusable(message: string, cause?: unknown): ReasonedError {
  return new ReasonedError('CONFIG_INVALID', message, {
    cause,
    hint: 'Look at the files with `drover pki show`.',
  });
}

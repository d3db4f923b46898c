import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';

/** A certificate among others in one file. */
export interface PemCertificate {
  readonly pem: string;
  readonly certificate: X509Certificate;
}

const BLOCK = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/**
 * The certificates in a PEM file, in their order; what stands between them is left alone. A file in
 * DER has one, though no agent reads that.
 *
 * @throws Error where one of them is damaged
 */
export function certificatesIn(contents: Buffer): readonly PemCertificate[] {
  if (isDer(contents)) {
    const certificate = new X509Certificate(contents);
    return [{ pem: certificate.toString(), certificate }];
  }
  return [...contents.toString('latin1').matchAll(BLOCK)].map(([pem]) => ({
    pem: `${pem}\n`,
    certificate: new X509Certificate(pem),
  }));
}

/** What keeps an agent from reading a file of certificates, in sentences. */
export function formProblems(contents: Buffer): readonly string[] {
  if (isDer(contents)) return ['It is in DER: agents read PEM.'];
  return contents.includes('PRIVATE KEY-----')
    ? ['There is a key in the file as well: agents want it in a file of its own.']
    : [];
}

function isDer(contents: Buffer): boolean {
  return contents[0] === 0x30;
}

/** The private key in a PEM file, or undefined where there is none that can be read. */
export function privateKeyIn(contents: Buffer): KeyObject | undefined {
  try {
    return createPrivateKey(contents);
  } catch {
    return undefined;
  }
}

/** Whether a certificate is signed by its own key, as that of a root is. */
export function isSelfSigned(certificate: X509Certificate): boolean {
  return isIssuedBy(certificate, certificate);
}

/** Whether a certificate names the other as its issuer and is signed with its key. */
export function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

/** A subject or an issuer as people write it, the common name first; `(none)` for an empty one. */
export function nameInOneLine(name: string | undefined): string {
  // Node says undefined for an empty name, whatever its types say.
  return name ? name.split('\n').toReversed().join(', ') : '(none)';
}

import { isIssuedBy, isSelfSigned, nameInOneLine, type PemCertificate } from './pem.js';

/**
 * Follows a certificate up to a root that is trusted, as the other end of a connection does.
 *
 * @param own what its file holds, the certificate itself first
 * @param trusted what the file of CAs holds
 * @returns sentences about what is wrong, none where the way is whole
 */
export function chainProblems(
  own: readonly [PemCertificate, ...PemCertificate[]],
  trusted: readonly PemCertificate[],
  caFile: string,
  now: Date,
): readonly string[] {
  const problems: string[] = [];
  const passed = new Set<PemCertificate>();
  for (let link: PemCertificate = own[0]; !isRoot(link, trusted); ) {
    passed.add(link);
    const issuer = issuerOf(link, own) ?? issuerOf(link, trusted);
    if (!issuer || passed.has(issuer)) {
      return [...problems, `Nothing in ${caFile} has signed it: ${missing(link)}.`];
    }
    const who = nameInOneLine(issuer.certificate.subject);
    if (!own.includes(issuer) && !isSelfSigned(issuer.certificate)) {
      problems.push(`The intermediate ${who} is in ${caFile} only: append it to the certificate.`);
    }
    if (new Date(issuer.certificate.validTo) <= now)
      problems.push(`Its issuer ${who} has expired.`);
    if (!issuer.certificate.ca) problems.push(`Its issuer ${who} is no CA.`);
    link = issuer;
  }
  return problems;
}

/** A root counts when it is trusted; that a certificate brings one along proves nothing. */
function isRoot({ certificate }: PemCertificate, trusted: readonly PemCertificate[]): boolean {
  return trusted.some(
    (root) => isSelfSigned(root.certificate) && root.certificate.raw.equals(certificate.raw),
  );
}

function issuerOf(
  { certificate }: PemCertificate,
  known: readonly PemCertificate[],
): PemCertificate | undefined {
  return known.find(
    (other) =>
      !other.certificate.raw.equals(certificate.raw) && isIssuedBy(certificate, other.certificate),
  );
}

function missing({ certificate }: PemCertificate): string {
  return isSelfSigned(certificate)
    ? 'it is signed by itself'
    : `its issuer is ${nameInOneLine(certificate.issuer)}`;
}

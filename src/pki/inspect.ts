import { readdir, stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { Role } from '../rpc/identity.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { trustDomainOf } from './authority.js';
import { chainProblems } from './chain.js';
import { readIfThere } from './files.js';
import type { Findings } from './findings.js';
import { checkKeyFile } from './key-file.js';
import { keyProblem, keyType } from './keys.js';
import { checkLeaf } from './leaf-rules.js';
import { certificatesIn, formProblems, nameInOneLine, type PemCertificate } from './pem.js';

const DAY_MS = 24 * 60 * 60 * 1000;
/** A certificate should be renewed when less than this part of its life is left. */
const RENEWAL_PART = 1 / 3;

/** What was found out about one certificate. */
export interface Inspection {
  readonly file: string;
  readonly kind: 'leaf' | 'authority';
  readonly subject: string;
  readonly issuer: string;
  /** Empty where it names nobody, or is a CA. */
  readonly role: Role | '';
  readonly name: string;
  readonly trustDomain: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Whole days, rounded down; negative once it has ended. */
  readonly daysLeft: number;
  readonly keyType: string;
  readonly fingerprintSha256: string;
  /** The other certificates in the file, by subject. */
  readonly alsoInFile: readonly string[];
  /** The file of its key; empty where none lies beside it. */
  readonly keyFile: string;
  /** The file of CAs beside it; empty where there is none. */
  readonly caFile: string;
  /** What keeps it from being used, in sentences. */
  readonly problems: readonly string[];
  /** What should be seen to, in sentences. */
  readonly notes: readonly string[];
}

/**
 * Looks at certificate files, and at those in folders and in the folders right below.
 *
 * @throws ReasonedError `CONFIG_INVALID` where a file cannot be read, or there is no certificate
 */
export async function inspect(
  paths: readonly string[],
  now: Date = new Date(),
): Promise<readonly Inspection[]> {
  const files: CertificateFile[] = [];
  for (const path of paths) files.push(...(await filesAt(path)));
  return await Promise.all(files.map((file) => inspectFile(file, now)));
}

interface CertificateFile {
  readonly path: string;
  readonly contents: Buffer;
  /** The first one is the one that counts. */
  readonly certificates: readonly [PemCertificate, ...PemCertificate[]];
}

async function inspectFile(
  { path, contents, certificates }: CertificateFile,
  now: Date,
): Promise<Inspection> {
  const [{ certificate }, ...others] = certificates;
  const findings: Findings = { problems: [...formProblems(contents)], notes: [] };
  const [notBefore, notAfter] = [new Date(certificate.validFrom), new Date(certificate.validTo)];
  checkTime(notBefore, notAfter, now, findings);
  const weakness = keyProblem(certificate.publicKey);
  if (weakness) findings.problems.push(`It has ${weakness}.`);
  const identity = certificate.ca ? undefined : checkLeaf(certificate, findings);
  const keyFile = await checkKeyFile(path, certificates, findings);
  const caFile = certificate.ca ? '' : await caBeside(path);
  if (caFile) {
    const known = readCertificates(caFile, (await readIfThere(caFile)) ?? Buffer.alloc(0));
    findings.problems.push(...chainProblems(certificates, known, caFile, now));
  }
  return {
    file: path,
    kind: certificate.ca ? 'authority' : 'leaf',
    subject: nameInOneLine(certificate.subject),
    issuer: nameInOneLine(certificate.issuer),
    role: identity?.role ?? '',
    name: identity?.name ?? '',
    trustDomain:
      identity?.trustDomain ?? (certificate.ca ? (trustDomainOf(certificate) ?? '') : ''),
    notBefore,
    notAfter,
    daysLeft: Math.floor((notAfter.getTime() - now.getTime()) / DAY_MS),
    keyType: keyType(certificate.publicKey),
    fingerprintSha256: certificate.fingerprint256,
    alsoInFile: others.map((other) => nameInOneLine(other.certificate.subject)),
    keyFile,
    caFile,
    ...findings,
  };
}

function checkTime(notBefore: Date, notAfter: Date, now: Date, findings: Findings): void {
  const leftMs = notAfter.getTime() - now.getTime();
  if (leftMs <= 0) {
    findings.problems.push(`It has expired, on ${notAfter.toISOString()}.`);
  } else if (notBefore > now) {
    findings.problems.push(`It is not valid before ${notBefore.toISOString()}.`);
  } else if (leftMs < (notAfter.getTime() - notBefore.getTime()) * RENEWAL_PART) {
    findings.notes.push('Less than a third of its life is left: renew it.');
  }
}

async function filesAt(path: string): Promise<readonly CertificateFile[]> {
  const found = await stat(path).catch(() => undefined);
  if (!found) throw nothingAt(path, `There is no ${path}.`);
  const files = found.isDirectory() ? await filesBelow(path) : await filesOf([path]);
  if (files.length === 0) throw nothingAt(path, `There is no certificate in ${path}.`);
  return files;
}

async function filesBelow(directory: string): Promise<readonly CertificateFile[]> {
  const entries = (await readdir(directory, { withFileTypes: true })).toSorted((a, b) =>
    a.name < b.name ? -1 : 1,
  );
  const here = await filesIn(directory);
  const below = entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'));
  const there = await Promise.all(below.map(({ name }) => filesIn(join(directory, name))));
  return [...here, ...there.flat()];
}

/** The CA that each leaf is checked against is told with the leaf, and not once more. */
async function filesIn(directory: string): Promise<readonly CertificateFile[]> {
  const names = (await readdir(directory)).filter((name) => /^[^.].*\.(crt|pem|cer)$/.test(name));
  const files = await filesOf(names.toSorted().map((name) => join(directory, name)));
  const leafs = files.some(({ certificates: [first] }) => !first.certificate.ca);
  const keys = new Set((await readdir(directory)).filter((name) => name.endsWith('.key')));
  return files.filter(
    ({ path, certificates: [first] }) =>
      !leafs || !first.certificate.ca || keys.has(`${basename(path, extname(path))}.key`),
  );
}

async function filesOf(paths: readonly string[]): Promise<readonly CertificateFile[]> {
  const files = await Promise.all(
    paths.map(async (path) => {
      const contents = (await readIfThere(path)) ?? Buffer.alloc(0);
      const [first, ...others] = readCertificates(path, contents);
      return first ? [{ path, contents, certificates: [first, ...others] as const }] : [];
    }),
  );
  return files.flat();
}

function readCertificates(path: string, contents: Buffer): readonly PemCertificate[] {
  try {
    return certificatesIn(contents);
  } catch (cause) {
    throw nothingAt(path, `${path} cannot be read as a certificate.`, cause);
  }
}

async function caBeside(path: string): Promise<string> {
  for (const name of ['ca.pem', 'ca.crt']) {
    const candidate = join(path, '..', name);
    if (candidate !== path && (await readIfThere(candidate))) return candidate;
  }
  return '';
}

function nothingAt(path: string, message: string, cause?: unknown): ReasonedError {
  return new ReasonedError('CONFIG_INVALID', message, {
    cause,
    hint: `Name certificate files or a folder of them instead of ${path}.`,
  });
}

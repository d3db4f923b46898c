import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import {
  formatIdentity,
  type Identity,
  parseIdentity,
  ROLES,
  type Role,
  TLS_NAME,
} from '../rpc/identity.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { checkTrustDomain, type OpenAuthority, readAuthority } from './authority.js';
import {
  type FileContents,
  openDirectory,
  PUBLIC,
  readIfThere,
  replaceFiles,
  SECRET,
} from './files.js';
import { LEAF_DAYS, LEAF_FILES } from './names.js';
import { certificatesIn, privateKeyIn } from './pem.js';
import { contentsOf, type LeafRequest, makeLeaf, readSigningRequest, signLeaf } from './signing.js';

const DAY_MS = 24 * 60 * 60 * 1000;

/** What is to be issued, and from which CA. */
export interface IssueSettings {
  /** The folder of the CA. */
  readonly directory: string;
  readonly role: string;
  readonly name: string;
  /** The life; that of the role where it is undefined. */
  readonly days?: number | undefined;
  /** The folder of the files; `<role>-<name>` in that of the CA where it is undefined. */
  readonly outDirectory?: string | undefined;
  /** A certificate signing request, where the key lies elsewhere. */
  readonly requestFile?: string | undefined;
  /** Needed where the certificate of the CA names none. */
  readonly trustDomain?: string | undefined;
}

/** What was issued. */
export interface Issued extends Identity {
  readonly uri: string;
  readonly notAfter: Date;
  readonly fingerprintSha256: string;
  /** The life was cut, because the CA ends before. */
  readonly cut: boolean;
  /** There was a certificate of the same name before. */
  readonly renewed: boolean;
  readonly certificateFile: string;
  /** Undefined where the key lies elsewhere. */
  readonly keyFile: string | undefined;
  readonly caFile: string;
}

/**
 * Issues a certificate, or renews it: a new key and a new certificate take the place of the old
 * ones.
 *
 * @throws ReasonedError `REQUEST_INVALID` for a role or a name that is none, `CONFIG_INVALID` where
 *   the CA, the request or the files that are there cannot be used
 */
export async function issue(settings: IssueSettings): Promise<Issued> {
  const { directory, requestFile } = settings;
  const opened = await readAuthority(directory);
  const identity = identityOf(settings, opened);
  const { request, cut } = leafOf(identity, settings.days, opened);
  const outDirectory =
    settings.outDirectory ?? join(directory, `${identity.role}-${identity.name}`);
  await openDirectory(outDirectory);
  const files = {
    certificateFile: join(outDirectory, LEAF_FILES.certificate),
    keyFile: join(outDirectory, LEAF_FILES.key),
    caFile: join(outDirectory, LEAF_FILES.ca),
  };
  const renewed = await isRenewal(files.certificateFile, request.uris);
  const { certificate, key } = requestFile
    ? await sign(opened, request, requestFile, files.keyFile)
    : await makeLeaf(opened.authority, request);
  // An agent takes a new certificate when it fits the key, so it never sees half of a change.
  await replaceFiles([
    { path: files.caFile, contents: opened.roots, mode: PUBLIC },
    ...(key === undefined ? [] : [{ path: files.keyFile, contents: key, mode: SECRET }]),
    { path: files.certificateFile, contents: certificate + opened.chain, mode: PUBLIC },
  ] satisfies FileContents[]);
  const made = new X509Certificate(certificate);
  return {
    ...identity,
    uri: formatIdentity(identity),
    notAfter: new Date(made.validTo),
    fingerprintSha256: made.fingerprint256,
    cut,
    renewed,
    ...files,
    keyFile: key === undefined ? undefined : files.keyFile,
  };
}

function identityOf({ role, name, trustDomain }: IssueSettings, ca: OpenAuthority): Identity {
  if (trustDomain !== undefined) checkTrustDomain(trustDomain);
  if (ca.trustDomain !== undefined && (trustDomain ?? ca.trustDomain) !== ca.trustDomain) {
    throw new ReasonedError(
      'REQUEST_INVALID',
      `The CA is of ${ca.trustDomain}, not ${trustDomain}.`,
      {
        hint: 'Leave --trust-domain out, or make another CA.',
      },
    );
  }
  const domain = trustDomain ?? ca.trustDomain;
  if (domain === undefined) {
    throw new ReasonedError('REQUEST_INVALID', 'The CA names no trust domain.', {
      hint: 'Name that of your fleet with --trust-domain.',
    });
  }
  const identity = { trustDomain: domain, role: role as Role, name };
  if (!ROLES.includes(identity.role)) {
    throw new ReasonedError('REQUEST_INVALID', `There is no role ${JSON.stringify(role)}.`, {
      hint: `The roles are ${ROLES.join(', ')}.`,
    });
  }
  if (!parseIdentity(formatIdentity(identity))) {
    throw new ReasonedError('REQUEST_INVALID', `${JSON.stringify(name)} cannot be a name.`, {
      hint: 'Give up to 63 letters, digits, `.`, `_` or `-`, not first a sign.',
    });
  }
  return identity;
}

function leafOf(
  identity: Identity,
  days: number | undefined,
  { notAfter: end }: OpenAuthority,
): { request: LeafRequest; cut: boolean } {
  const now = Date.now();
  if (end.getTime() <= now) {
    throw new ReasonedError('CONFIG_INVALID', `The CA ended on ${end.toISOString()}.`, {
      hint: 'Make another one with `drover pki init`; see docs/certificates.md.',
    });
  }
  const isHost = identity.role === 'host';
  const lifeDays = days ?? (isHost ? LEAF_DAYS.host : LEAF_DAYS.caller);
  const wanted = new Date(now + lifeDays * DAY_MS);
  const cut = wanted > end;
  return {
    cut,
    request: {
      commonName: identity.name,
      uris: [formatIdentity(identity)],
      // A caller has no name that a server could be known by, nor may it be one.
      dnsNames: isHost ? [TLS_NAME] : [],
      usages: isHost ? ['server', 'client'] : ['client'],
      notAfter: cut ? end : wanted,
    },
  };
}

/** Takes the certificate of somebody else for a mistake, so that none is overwritten. */
async function isRenewal(path: string, [uri]: readonly string[]): Promise<boolean> {
  const contents = await readIfThere(path);
  if (!contents) return false;
  if (namesOf(contents).includes(uri ?? '')) return true;
  throw new ReasonedError('CONFIG_INVALID', `${path} is not the certificate of ${uri}.`, {
    hint: 'Choose another folder with --out, or move the file away.',
  });
}

function namesOf(contents: Buffer): readonly string[] {
  try {
    const [first] = certificatesIn(contents);
    return first ? contentsOf(first.certificate).uris : [];
  } catch {
    return [];
  }
}

/** Signs a request. Nothing of it counts but its key. */
async function sign(
  { authority }: OpenAuthority,
  leaf: LeafRequest,
  requestFile: string,
  keyFile: string,
): Promise<{ certificate: string; key: undefined }> {
  const contents = await readIfThere(requestFile);
  if (!contents) {
    throw new ReasonedError('CONFIG_INVALID', `There is no file ${requestFile}.`, {
      hint: 'Name a certificate signing request, PEM or DER.',
    });
  }
  let certificate: string;
  try {
    certificate = await signLeaf(authority, leaf, await readSigningRequest(contents));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ReasonedError('CONFIG_INVALID', `${requestFile} cannot be signed: ${why}.`, {
      cause,
      hint: 'Make it anew, with an EC key of P-256: docs/certificates.md has the command.',
    });
  }
  const key = privateKeyIn((await readIfThere(keyFile)) ?? Buffer.alloc(0));
  if (key && !new X509Certificate(certificate).checkPrivateKey(key)) {
    throw new ReasonedError('CONFIG_INVALID', `${keyFile} is not the key of the request.`, {
      hint: 'Choose another folder with --out, or move the key away.',
    });
  }
  return { certificate, key: undefined };
}

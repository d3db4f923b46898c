import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Authority,
  type CertificateFiles,
  identityUri,
  type LeafRequest,
  makeAuthority,
  makeLeaf,
  writeAuthority,
  writePair,
} from '../../scripts/certificates.js';

/** Certificates in a folder of their own, removed with it. */
export interface TestCertificates extends AsyncDisposable {
  readonly directory: string;
  /** Files of a host's certificate, made when first asked for. */
  host(name: string): Promise<CertificateFiles>;
  /** Files of an operator's certificate. */
  operator(name: string): Promise<CertificateFiles>;
  /** Files of a certificate with anything in it. */
  leaf(fileName: string, request: LeafRequest): Promise<CertificateFiles>;
}

/** Makes a CA of its own; two of them do not trust each other. */
export async function makeTestCertificates(trustDomain = 'drover.test'): Promise<TestCertificates> {
  const directory = await mkdtemp(join(tmpdir(), 'drover-certificates-'));
  const authority: Authority = await makeAuthority('Drover test CA');
  await writeAuthority(directory, authority);
  const made = new Map<string, Promise<CertificateFiles>>();
  const leaf = (fileName: string, request: LeafRequest): Promise<CertificateFiles> => {
    const files =
      made.get(fileName) ??
      makeLeaf(authority, request).then((pair) => writePair(directory, fileName, pair));
    made.set(fileName, files);
    return files;
  };
  const named = (role: 'host' | 'operator', name: string) =>
    leaf(`${role}-${name}`, { commonName: name, uris: [identityUri(role, name, trustDomain)] });
  return {
    directory,
    host: (name) => named('host', name),
    operator: (name) => named('operator', name),
    leaf,
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}

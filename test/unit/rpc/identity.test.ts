import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as x509 from '@peculiar/x509';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatIdentity, readCaller, readIdentity, uriNames } from '../../../src/rpc/identity.js';
import {
  identityUri,
  makeAuthority,
  makeLeaf,
  makeTestCertificates,
  type TestCertificates,
} from '../../support/certificates.js';

const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;

describe('the identity in a certificate', () => {
  let certificates: TestCertificates;
  beforeAll(async () => {
    certificates = await makeTestCertificates();
  });
  afterAll(() => certificates?.[Symbol.asyncDispose]());

  const withUris = async (...uris: string[]) => {
    const authority = await makeAuthority('x');
    return Buffer.from((await makeLeaf(authority, { commonName: 'x', uris })).certificate);
  };

  it('is role, name and trust domain of its one URI', async () => {
    const host = readFileSync((await certificates.host('host-a')).certificate);
    expect(readIdentity(host)).toEqual({
      trustDomain: 'drover.test',
      role: 'host',
      name: 'host-a',
    });
    expect(formatIdentity(readIdentity(host))).toBe(identityUri('host', 'host-a'));
    const operator = readFileSync((await certificates.operator('alice')).certificate);
    expect(readCaller(operator, 'drover.test')).toEqual({ role: 'operator', name: 'alice' });
    expect(() => readCaller(operator, 'other.test')).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
    );
  });

  it.each([
    ['no URI', []],
    ['two URIs', [identityUri('host', 'a'), identityUri('host', 'b')]],
    ['the same URI twice', [identityUri('host', 'a'), identityUri('host', 'a')]],
    ['another role', ['spiffe://drover.test/root/a']],
    ['another scheme', ['https://drover.test/host/a']],
    ['a longer path', ['spiffe://drover.test/host/a/b']],
    ['no name', ['spiffe://drover.test/host/']],
    ['a name that climbs', ['spiffe://drover.test/host/../operator/a']],
    ['a query', ['spiffe://drover.test/host/a?operator']],
    ['a scheme in capitals', ['SPIFFE://drover.test/host/a']],
    ['a trust domain in capitals', ['spiffe://Drover.Test/host/a']],
    ['a role in capitals', ['spiffe://drover.test/HOST/a']],
    ['percent encoding in the name', ['spiffe://drover.test/host/%61']],
    ['percent encoding in the role', ['spiffe://drover.test/%68ost/a']],
    ['a user', ['spiffe://root@drover.test/host/a']],
    ['a port', ['spiffe://drover.test:443/host/a']],
    ['a fragment', ['spiffe://drover.test/host/a#operator']],
    ['a slash at the end', ['spiffe://drover.test/host/a/']],
    ['a slash too many', ['spiffe://drover.test//host/a']],
    ['only dots for a name', ['spiffe://drover.test/host/..']],
    ['a path before it', ['spiffe://drover.test/x/../host/a']],
    ['no trust domain', ['spiffe:///host/a']],
    ['a name that is too long', [`spiffe://drover.test/host/${'a'.repeat(64)}`]],
    ['a NUL after the name', ['spiffe://drover.test/host/a\0']],
    ['a NUL in the name', ['spiffe://drover.test/host/a\0.drover.test']],
    ['a line feed after the name', ['spiffe://drover.test/host/a\n']],
    ['a blank after the name', ['spiffe://drover.test/host/a ']],
    ['a letter that only looks like one', ['spiffe://drover.test/h\u043est/a']],
    ['a second URI that names nobody', [identityUri('host', 'a'), 'https://a.test']],
    ['a hundred thousand characters', [`spiffe://drover.test/host/${'a'.repeat(100_000)}`]],
    ['ten thousand URIs', Array.from({ length: 10_000 }, () => identityUri('host', 'a'))],
    ['a second URI inside the first', ['spiffe://drover.test/host/a, URI:spiffe://x/host/b']],
  ])('is refused with %s', async (_what, uris) => {
    const certificate = await withUris(...uris);
    expect(() => readIdentity(certificate)).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
    );
  });

  const leafOf = async (subject: string, extensions: x509.Extension[]) => {
    const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, [
      'sign',
      'verify',
    ]);
    const name = { subject, issuer: 'CN=x', serialNumber: '01', publicKey: keys.publicKey };
    const signing = { signingKey: keys.privateKey, signingAlgorithm: SIGNING };
    const made = await x509.X509CertificateGenerator.create({ ...name, ...signing, extensions });
    return Buffer.from(made.rawData);
  };
  const names = (...list: { type: 'upn' | 'dns' | 'email' | 'dn'; value: string }[]) =>
    new x509.SubjectAlternativeNameExtension(list);
  const uri = identityUri('operator', 'mallory');

  it.each([
    ['in an other name', 'CN=x', [names({ type: 'upn', value: uri })]],
    ['in a DNS name', 'CN=x', [names({ type: 'dns', value: uri })]],
    ['in a DNS name that looks like two', 'CN=x', [names({ type: 'dns', value: `a, URI:${uri}` })]],
    ['in a mail address', 'CN=x', [names({ type: 'email', value: `URI:${uri}` })]],
    ['in a directory name', 'CN=x', [names({ type: 'dn', value: `CN=${uri}` })]],
    ['in the common name, and there are no other names', `CN=${uri}`, []],
    ['in the common name, beside other names', `CN=${uri}`, [names({ type: 'dns', value: 'a' })]],
  ])('is not found %s', async (_what, subject, extensions) => {
    const certificate = await leafOf(subject, extensions);
    expect(() => readIdentity(certificate)).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
    );
  });

  it('does not fill the log with what a certificate names', async () => {
    const certificate = await withUris(`spiffe://drover.test/host/${'a'.repeat(60_000)}`);
    expect(() => readIdentity(certificate)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^.{1,400}$/) }),
    );
  });

  it('is refused where there is no certificate at all', () => {
    expect(() => readIdentity(Buffer.from('nonsense'))).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
    );
  });
});

describe('the URIs among alternative names', () => {
  it('are found beside names of other kinds', () => {
    expect(uriNames('DNS:drover, URI:spiffe://a/host/b, IP Address:127.0.0.1')).toEqual([
      'spiffe://a/host/b',
    ]);
    expect(uriNames('')).toEqual([]);
    expect(uriNames('DNS:drover')).toEqual([]);
  });

  it('are not found inside the name of another kind', () => {
    expect(uriNames('DNS:"drover, URI:spiffe://a/operator/b"')).toEqual([]);
    expect(uriNames('URI:"spiffe://a/host/b, URI:x"')).toEqual(['spiffe://a/host/b, URI:x']);
    expect(uriNames('DNS:"say \\"URI:x\\", URI:y", URI:z')).toEqual(['z']);
  });

  it('are none at all in text that is not of the known form', () => {
    expect(uriNames('DNS:a", URI:spiffe://a/host/b')).toEqual([]);
    expect(uriNames('URI:spiffe://a/host/b, ???')).toEqual([]);
  });
});

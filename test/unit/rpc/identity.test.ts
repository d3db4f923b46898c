import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { identityUri, makeAuthority, makeLeaf } from '../../../scripts/certificates.js';
import { formatIdentity, readCaller, readIdentity, uriNames } from '../../../src/rpc/identity.js';
import { makeTestCertificates, type TestCertificates } from '../../support/certificates.js';

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
    ['a second URI inside the first', ['spiffe://drover.test/host/a, URI:spiffe://x/host/b']],
  ])('is refused with %s', async (_what, uris) => {
    const certificate = await withUris(...uris);
    expect(() => readIdentity(certificate)).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
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

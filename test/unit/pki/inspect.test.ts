import { X509Certificate } from 'node:crypto';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Inspection, inspect } from '../../../src/pki/inspect.js';
import { issue } from '../../../src/pki/issue.js';
import {
  identityUri,
  type LeafRequest,
  makeAuthority,
  makeLeaf,
  writePair,
} from '../../support/certificates.js';
import { makeAuthorityFolder, pkiFolder } from '../../support/pki-folder.js';

const HOST = identityUri('host', 'alpha');

async function lookAt(path: string, now?: Date): Promise<Inspection> {
  const [found, ...others] = await inspect([path], now);
  expect(others).toEqual([]);
  if (!found) throw new Error('There is nothing.');
  return found;
}

/** A leaf of a CA in a folder, with the CA beside it. */
async function leafWith(request: Partial<LeafRequest>): Promise<string> {
  const directory = await pkiFolder();
  const authority = await makeAuthority('CA');
  await writeFile(join(directory, 'ca.crt'), authority.pem.certificate);
  const pair = await makeLeaf(authority, { commonName: 'x', uris: [HOST], ...request });
  return (await writePair(directory, 'leaf', pair)).certificate;
}

describe('looking at certificates', () => {
  it('takes one without a subject, at which nobody looks', async () => {
    const { subject, problems } = await lookAt(await leafWith({ commonName: '' }));
    expect({ subject, problems }).toEqual({ subject: '(none)', problems: [] });
  });

  it('finds nothing wrong with what was just made, and tells what it is', async () => {
    const { directory } = await makeAuthorityFolder();
    await issue({ directory, role: 'host', name: 'alpha' });
    await issue({ directory, role: 'operator', name: 'alice' });
    const found = await inspect([directory]);
    expect(found.flatMap(({ problems, notes }) => [...problems, ...notes])).toEqual([]);
    expect(found.map(({ kind, role, name }) => `${kind} ${role} ${name}`)).toEqual([
      'authority  ',
      'leaf host alpha',
      'leaf operator alice',
    ]);
    expect(new Set(found.map(({ trustDomain }) => trustDomain))).toEqual(new Set(['drover.test']));
    expect(found[1]).toMatchObject({
      file: join(directory, 'host-alpha', 'certificate.pem'),
      keyFile: join(directory, 'host-alpha', 'key.pem'),
      caFile: join(directory, 'host-alpha', 'ca.pem'),
      keyType: 'EC P-256',
      subject: 'CN=alpha',
      daysLeft: 89,
    });
  });

  it('says when one has ended, has not begun, or should be renewed', async () => {
    const file = await leafWith({ days: 30 });
    const at = (days: number) => lookAt(file, new Date(Date.now() + days * 24 * 60 * 60 * 1000));
    expect(await at(1)).toMatchObject({ problems: [], notes: [], daysLeft: 28 });
    expect(await at(21)).toMatchObject({
      problems: [],
      notes: [expect.stringMatching(/renew it/)],
    });
    expect(await at(31)).toMatchObject({
      problems: [expect.stringMatching(/^It has expired, on /)],
      daysLeft: -2,
    });
    expect((await at(-1)).problems).toEqual([expect.stringMatching(/is not valid before/)]);
  });

  it.each<[string, Partial<LeafRequest>, RegExp]>([
    ['no URI', { uris: [] }, /names nobody/],
    ['two URIs', { uris: [HOST, identityUri('operator', 'a')] }, /has 2 URIs/],
    ['an unknown role', { uris: ['spiffe://drover.test/root/a'] }, /is not spiffe:/],
    ['no DNS name for a host', { dnsNames: [] }, /DNS name "drover" is missing/],
    ['no server in it', { usages: ['client'] }, /serverAuth is missing/],
    ['no client in it', { usages: ['server'] }, /clientAuth is missing/],
  ])('says that a certificate has %s', async (_what, request, problem) => {
    const { problems } = await lookAt(await leafWith(request));
    expect(problems).toEqual([expect.stringMatching(problem)]);
  });

  it('asks for no DNS name and no server in the certificate of a caller', async () => {
    const request = { uris: [identityUri('observer', 'a')], dnsNames: [] };
    const { problems } = await lookAt(await leafWith({ ...request, usages: ['client'] }));
    expect(problems).toEqual([]);
  });

  it('reads a name of any length', async () => {
    const uris = [`spiffe://drover.test/host/${'x'.repeat(100_000)}`];
    const { problems } = await lookAt(await leafWith({ uris }));
    expect(problems).toEqual([expect.stringMatching(/is not spiffe:/)]);
  });

  it('says that the key is of another certificate, or open to others', async () => {
    const file = await leafWith({});
    const key = file.replace(/crt$/, 'key');
    await chmod(key, 0o640);
    expect(await lookAt(file)).toMatchObject({
      problems: [],
      notes: [expect.stringMatching(/group of .* may read it \(mode 0640\)/)],
    });
    await chmod(key, 0o644);
    expect((await lookAt(file)).problems).toEqual([
      expect.stringMatching(/is open to others \(mode 0644\): `chmod 600 /),
    ]);
    await chmod(key, 0o600);
    await writeFile(key, await readFile((await leafWith({})).replace(/crt$/, 'key')));
    expect((await lookAt(file)).problems).toEqual([
      expect.stringMatching(/is the key of another certificate/),
    ]);
    await writeFile(key, 'nonsense');
    expect((await lookAt(file)).problems).toEqual([expect.stringMatching(/holds no key/)]);
    await rm(key);
    expect(await lookAt(file)).toMatchObject({ problems: [], keyFile: '' });
  });

  it('says that the CA beside it has not signed it', async () => {
    const file = await leafWith({});
    const stranger = await makeAuthority('CA');
    await writeFile(join(file, '..', 'ca.crt'), stranger.pem.certificate);
    expect((await lookAt(file)).problems).toEqual([
      expect.stringMatching(/Nothing in .*ca\.crt has signed it: its issuer is CN=CA/),
    ]);
  });

  it('says that a file has a form that agents do not read', async () => {
    const file = await leafWith({});
    const pem = await readFile(file, 'utf8');
    await writeFile(file, pem + (await readFile(file.replace(/crt$/, 'key'), 'utf8')));
    expect((await lookAt(file)).problems).toEqual([expect.stringMatching(/a key in the file/)]);
    await writeFile(file, new X509Certificate(pem).raw);
    expect((await lookAt(file)).problems).toEqual([expect.stringMatching(/It is in DER/)]);
  });

  it('refuses files without a certificate, and folders', async () => {
    const directory = await pkiFolder();
    await writeFile(join(directory, 'notes.pem'), 'nonsense');
    const damaged = join(directory, 'damaged.crt');
    await writeFile(damaged, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
    for (const path of [join(directory, 'notes.pem'), join(directory, 'missing'), damaged]) {
      await expect(inspect([path])).rejects.toMatchObject({ reason: 'CONFIG_INVALID' });
    }
    const empty = join(directory, 'empty');
    await mkdir(empty);
    await expect(inspect([empty])).rejects.toMatchObject({ reason: 'CONFIG_INVALID' });
  });
});

describe('looking at a certificate with an intermediate', () => {
  async function chain(files: (pem: Record<'leaf' | 'middle' | 'root', string>) => string[]) {
    const directory = await pkiFolder();
    const root = await makeAuthority('Root');
    const middle = await makeAuthority('Middle', root);
    const pair = await makeLeaf(middle, { commonName: 'x', uris: [HOST] });
    const pem = {
      leaf: pair.certificate,
      middle: middle.pem.certificate,
      root: root.pem.certificate,
    };
    const [certificate = '', ca = ''] = files(pem);
    await writePair(directory, 'tls', { certificate, key: pair.key });
    await writeFile(join(directory, 'ca.crt'), ca);
    return await lookAt(join(directory, 'tls.crt'));
  }

  it('finds nothing wrong where the intermediate follows the leaf', async () => {
    const found = await chain(({ leaf, middle, root }) => [leaf + middle, root]);
    expect(found).toMatchObject({ problems: [], name: 'alpha', alsoInFile: ['CN=Middle'] });
  });

  it('says that the intermediate is missing, or lies in the wrong file', async () => {
    const without = await chain(({ leaf, root }) => [leaf, root]);
    expect(without.problems).toEqual([expect.stringMatching(/its issuer is CN=Middle/)]);
    const elsewhere = await chain(({ leaf, middle, root }) => [leaf, root + middle]);
    expect(elsewhere.problems).toEqual([
      expect.stringMatching(/The intermediate CN=Middle is in .* only/),
    ]);
  });

  it('says that the root is not trusted only because the file brings it along', async () => {
    const found = await chain(({ leaf, middle, root }) => [leaf + middle + root, middle]);
    expect(found.problems).toEqual([expect.stringMatching(/Nothing in .*ca\.crt has signed it/)]);
  });

  it('says that the leaf must come first', async () => {
    const found = await chain(({ leaf, middle, root }) => [middle + leaf, root]);
    expect(found.problems).toEqual([expect.stringMatching(/that one must come first/)]);
  });
});

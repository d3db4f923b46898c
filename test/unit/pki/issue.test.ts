import { createPrivateKey, X509Certificate } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { initAuthority } from '../../../src/pki/authority.js';
import { type IssueSettings, issue } from '../../../src/pki/issue.js';
import { MOST_DAYS } from '../../../src/pki/names.js';
import { ROLES } from '../../../src/rpc/identity.js';
import { makeAuthority, writePair } from '../../support/certificates.js';
import { makeAuthorityFolder, pkiFolder } from '../../support/pki-folder.js';

const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
const DAY_MS = 24 * 60 * 60 * 1000;

const modeOf = async (path: string) => (await stat(path)).mode & 0o777;
const read = async (path: string) => new X509Certificate(await readFile(path));
const lifeDays = (certificate: X509Certificate) =>
  Math.round((Date.parse(certificate.validTo) - Date.now()) / DAY_MS);

describe('a CA that is made', () => {
  it('may sign leafs and nothing else, names its trust domain, and lives for ten years', async () => {
    const { directory } = await makeAuthorityFolder();
    const certificate = await read(join(directory, 'ca.crt'));
    expect(certificate.ca).toBe(true);
    expect(certificate.subjectAltName).toBe('URI:spiffe://drover.test');
    expect(certificate.verify(certificate.publicKey)).toBe(true);
    expect(lifeDays(certificate)).toBe(3650);
    // Basic constraints: critical, a CA, and no other CA below it.
    expect(certificate.raw.toString('hex')).toContain('0603551d130101ff040830060101ff020100');
  });

  it('has a key and a folder for its owner only, whatever the mask', async () => {
    const mask = process.umask(0);
    try {
      const { directory } = await makeAuthorityFolder();
      expect(await modeOf(directory)).toBe(0o700);
      expect(await modeOf(join(directory, 'ca.key'))).toBe(0o600);
      expect(await modeOf(join(directory, 'ca.crt'))).toBe(0o644);
    } finally {
      process.umask(mask);
    }
  });

  it('is never replaced, nor is what is left of one', async () => {
    const { directory, settings } = await makeAuthorityFolder();
    const before = await readFile(join(directory, 'ca.key'), 'utf8');
    await expect(initAuthority(settings)).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/ca\.crt is there already/),
      hint: expect.stringMatching(/drover pki issue --dir/),
    });
    expect(await readFile(join(directory, 'ca.key'), 'utf8')).toBe(before);

    const rest = await pkiFolder();
    await writeFile(join(rest, 'ca.key'), 'precious');
    await expect(initAuthority({ ...settings, directory: rest })).rejects.toMatchObject({
      message: expect.stringMatching(/ca\.key is there already/),
    });
    expect(await readdir(rest)).toEqual(['ca.key']);
  });

  it('is not put where others may write', async () => {
    const { settings } = await makeAuthorityFolder();
    const shared = join(await pkiFolder(), 'shared');
    await mkdir(shared);
    await chmod(shared, 0o777);
    await expect(initAuthority({ ...settings, directory: shared })).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/may write in/),
    });
  });

  it.each(['', 'Drover', 'a/host', 'a b', 'x'.repeat(256)])(
    'refuses the trust domain "%s"',
    async (trustDomain) => {
      const directory = join(await pkiFolder(), 'ca');
      await expect(initAuthority({ directory, trustDomain, days: 1 })).rejects.toMatchObject({
        reason: 'REQUEST_INVALID',
      });
    },
  );

  it('may live for as long as can be asked for', async () => {
    const { directory } = await makeAuthorityFolder({ days: MOST_DAYS });
    expect(lifeDays(await read(join(directory, 'ca.crt')))).toBe(MOST_DAYS);
  });
});

describe('a certificate that is issued', () => {
  it.each(ROLES)('has exactly what a %s needs', async (role) => {
    const { directory } = await makeAuthorityFolder();
    const issued = await issue({ directory, role, name: 'a-1' });
    const certificate = await read(issued.certificateFile);
    const isHost = role === 'host';
    expect(certificate.subjectAltName).toBe(
      `${isHost ? 'DNS:drover, ' : ''}URI:spiffe://drover.test/${role}/a-1`,
    );
    expect(certificate.keyUsage).toEqual(isHost ? [SERVER_AUTH, CLIENT_AUTH] : [CLIENT_AUTH]);
    expect(certificate.ca).toBe(false);
    expect(lifeDays(certificate)).toBe(isHost ? 90 : 30);
    const ca = await read(join(directory, 'ca.crt'));
    expect(certificate.checkIssued(ca) && certificate.verify(ca.publicKey)).toBe(true);
    expect(issued).toMatchObject({ role, name: 'a-1', cut: false, renewed: false });
    expect(issued.certificateFile).toBe(join(directory, `${role}-a-1`, 'certificate.pem'));
  });

  it('has a key for its owner only, and the CA beside it', async () => {
    const { directory } = await makeAuthorityFolder();
    const issued = await issue({ directory, role: 'host', name: 'alpha' });
    expect(await modeOf(issued.keyFile ?? '')).toBe(0o600);
    expect(await modeOf(issued.certificateFile)).toBe(0o644);
    expect(await readFile(issued.caFile)).toEqual(await readFile(join(directory, 'ca.crt')));
    const key = createPrivateKey(await readFile(issued.keyFile ?? ''));
    expect((await read(issued.certificateFile)).checkPrivateKey(key)).toBe(true);
  });

  it('lives as long as was asked for, but never longer than the CA', async () => {
    const { directory } = await makeAuthorityFolder({ days: 10 });
    const short = await issue({ directory, role: 'observer', name: 'a', days: 3 });
    expect(lifeDays(await read(short.certificateFile))).toBe(3);
    const long = await issue({ directory, role: 'observer', name: 'b', days: 300 });
    expect(long.cut).toBe(true);
    const [leaf, ca] = [await read(long.certificateFile), await read(join(directory, 'ca.crt'))];
    expect(leaf.validTo).toBe(ca.validTo);
  });

  it('is not issued by a CA that has ended', async () => {
    const { directory } = await makeAuthorityFolder({ days: -1 });
    await expect(issue({ directory, role: 'host', name: 'a' })).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/The CA ended on/),
    });
  });

  it.each([
    ['a role that is none', { role: 'root' }, /no role "root"/],
    ['a name that climbs', { name: '../alpha' }, /cannot be a name/],
    ['a name that is empty', { name: '' }, /cannot be a name/],
    ['another trust domain', { trustDomain: 'other.test' }, /is of drover\.test, not other\.test/],
  ])('is refused for %s, and nothing is written', async (_what, change, message) => {
    const { directory } = await makeAuthorityFolder();
    const settings: IssueSettings = { directory, role: 'host', name: 'alpha', ...change };
    await expect(issue(settings)).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
      message: expect.stringMatching(message),
    });
    expect((await readdir(directory)).toSorted()).toEqual(['ca.crt', 'ca.key']);
  });

  it('is refused where there is no CA, or the key is of another one', async () => {
    const empty = await pkiFolder();
    await expect(issue({ directory: empty, role: 'host', name: 'a' })).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/There is no CA in/),
    });
    const [one, two] = [await makeAuthorityFolder(), await makeAuthorityFolder()];
    await writeFile(join(one.directory, 'ca.key'), await readFile(join(two.directory, 'ca.key')));
    await expect(
      issue({ directory: one.directory, role: 'host', name: 'a' }),
    ).rejects.toMatchObject({
      message: expect.stringMatching(/holds no CA that .* is the key of/),
    });
  });

  it('takes its trust domain from the command line where a CA from elsewhere names none', async () => {
    const directory = await pkiFolder();
    await writePair(directory, 'ca', (await makeAuthority('Elsewhere')).pem);
    const settings = { directory, role: 'host', name: 'alpha' };
    await expect(issue(settings)).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
      hint: expect.stringMatching(/--trust-domain/),
    });
    const issued = await issue({ ...settings, trustDomain: 'elsewhere.test' });
    expect(issued.uri).toBe('spiffe://elsewhere.test/host/alpha');
  });

  it('brings the intermediate along that has signed it, and trusts the root', async () => {
    const directory = await pkiFolder();
    const root = await makeAuthority('Root');
    const middle = await makeAuthority('Middle', root);
    const certificate = middle.pem.certificate + root.pem.certificate;
    await writePair(directory, 'ca', { certificate, key: middle.pem.key });
    const issued = await issue({ directory, role: 'host', name: 'a', trustDomain: 'drover.test' });
    const file = await readFile(issued.certificateFile, 'utf8');
    expect(file.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(file.endsWith(middle.pem.certificate)).toBe(true);
    expect(await readFile(issued.caFile, 'utf8')).toBe(root.pem.certificate);
  });

  it('hands on all roots of the CA file, so that two CAs can overlap', async () => {
    const [before, after] = [await makeAuthorityFolder(), await makeAuthorityFolder()];
    const both = await Promise.all(
      [after, before].map(({ directory }) => readFile(join(directory, 'ca.crt'), 'utf8')),
    );
    await writeFile(join(after.directory, 'ca.crt'), both.join(''));
    const issued = await issue({ directory: after.directory, role: 'host', name: 'alpha' });
    expect(await readFile(issued.caFile, 'utf8')).toBe(both.join(''));
    const signer = new X509Certificate(both[0] ?? '');
    expect((await read(issued.certificateFile)).verify(signer.publicKey)).toBe(true);
  });
});

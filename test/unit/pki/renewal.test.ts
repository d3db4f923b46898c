import { createPrivateKey, X509Certificate } from 'node:crypto';
import { watch } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { issue } from '../../../src/pki/issue.js';
import { LEAF_FILES } from '../../../src/pki/names.js';
import { makeAuthorityFolder, pkiFolder } from '../../support/pki-folder.js';
import { makeSigningRequest } from '../../support/signing-request.js';

describe('a certificate that is renewed', () => {
  it('has a new key, in the same files', async () => {
    const { directory } = await makeAuthorityFolder();
    const settings = { directory, role: 'host', name: 'alpha' };
    const first = await issue(settings);
    const [key, certificate] = await contentsOf(first);
    const second = await issue(settings);
    expect(second).toMatchObject({ renewed: true, certificateFile: first.certificateFile });
    const [newKey, newCertificate] = await contentsOf(second);
    expect(newKey).not.toBe(key);
    expect(newCertificate).not.toBe(certificate);
    expect(fits(newCertificate, newKey)).toBe(true);
    expect((await stat(second.keyFile ?? '')).mode & 0o777).toBe(0o600);
    const names = await readdir(join(directory, 'host-alpha'));
    expect(names.toSorted()).toEqual(['ca.pem', 'certificate.pem', 'key.pem']);
  });

  it('is never seen half written', async () => {
    const { directory } = await makeAuthorityFolder();
    const settings = { directory, role: 'host', name: 'alpha' };
    const files = await issue(settings);
    const rounds = [await contentsOf(files)];
    const seen = new Set<string>();
    let renewing = true;
    const reading = (async () => {
      while (renewing) for (const contents of await contentsOf(files)) seen.add(contents);
    })();
    for (let round = 0; round < 10; round++) rounds.push(await contentsOf(await issue(settings)));
    renewing = false;
    await reading;
    expect(seen.size).toBeGreaterThan(2);
    expect([...seen].filter((contents) => !rounds.flat().includes(contents))).toEqual([]);
  });

  it('comes after its key, so that what fits is new', async () => {
    const { directory } = await makeAuthorityFolder();
    const settings = { directory, role: 'host', name: 'alpha' };
    await issue(settings);
    const names: string[] = [];
    const watcher = watch(join(directory, 'host-alpha'), (_event, name) => names.push(name ?? ''));
    onTestFinished(() => watcher.close());
    await issue(settings);
    await vi.waitFor(() => expect(names).toContain('certificate.pem'), 5_000);
    const order = names.filter((name) => Object.values(LEAF_FILES).includes(name as never));
    expect([...new Set(order)]).toEqual(['ca.pem', 'key.pem', 'certificate.pem']);
  });

  it('leaves everything as it was where one of the files cannot be written', async () => {
    const { directory } = await makeAuthorityFolder();
    const settings = { directory, role: 'host', name: 'alpha' };
    const before = await contentsOf(await issue(settings));
    // In the way of the last file that is written.
    await mkdir(join(directory, 'host-alpha', '.certificate.pem.new', 'x'), { recursive: true });
    await expect(issue(settings)).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/certificate\.pem cannot be written/),
    });
    const files = { certificateFile: '', keyFile: '' };
    files.certificateFile = join(directory, 'host-alpha', 'certificate.pem');
    files.keyFile = join(directory, 'host-alpha', 'key.pem');
    expect(await contentsOf(files)).toEqual(before);
  });

  it('never takes the place of the certificate of somebody else', async () => {
    const { directory } = await makeAuthorityFolder();
    const outDirectory = await pkiFolder();
    await issue({ directory, role: 'host', name: 'alpha', outDirectory });
    for (const other of [
      { role: 'host', name: 'beta' },
      { role: 'operator', name: 'alpha' },
    ]) {
      await expect(issue({ directory, outDirectory, ...other })).rejects.toMatchObject({
        reason: 'CONFIG_INVALID',
        message: expect.stringMatching(/is not the certificate of spiffe:/),
      });
    }
    await writeFile(join(outDirectory, 'certificate.pem'), 'something else');
    await expect(
      issue({ directory, role: 'host', name: 'alpha', outDirectory }),
    ).rejects.toMatchObject({ reason: 'CONFIG_INVALID' });
  });
});

describe('a request that is signed', () => {
  it.each(['pem', 'der'] as const)('gives its key, and none of its names (%s)', async (form) => {
    const { directory } = await makeAuthorityFolder();
    const request = await makeSigningRequest(['spiffe://drover.test/operator/root']);
    const requestFile = join(directory, 'request');
    await writeFile(requestFile, request[form]);
    const issued = await issue({ directory, role: 'host', name: 'alpha', requestFile });
    expect(issued.keyFile).toBeUndefined();
    const certificate = new X509Certificate(await readFile(issued.certificateFile));
    expect(certificate.subjectAltName).toBe('DNS:drover, URI:spiffe://drover.test/host/alpha');
    expect(certificate.subject).toBe('CN=alpha');
    expect(certificate.ca).toBe(false);
    expect(certificate.checkPrivateKey(request.privateKey)).toBe(true);
    const names = await readdir(join(directory, 'host-alpha'));
    expect(names.toSorted()).toEqual(['ca.pem', 'certificate.pem']);
  });

  it.each([
    ['is signed with another key', tampered, /not signed with its own key/],
    ['has a key that is too short', shortKey, /1024 bits, below 2048/],
    ['is none', async () => Buffer.from('nonsense'), /cannot be signed/],
  ])('is refused where it %s', async (_what, make, message) => {
    const { directory } = await makeAuthorityFolder();
    const requestFile = join(directory, 'request');
    await writeFile(requestFile, await make());
    await expect(
      issue({ directory, role: 'host', name: 'alpha', requestFile }),
    ).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(message),
    });
  });

  it('is refused where the key that lies there is not its own', async () => {
    const { directory } = await makeAuthorityFolder();
    const settings = { directory, role: 'host', name: 'alpha' };
    const before = await contentsOf(await issue(settings));
    const requestFile = join(directory, 'request');
    await writeFile(requestFile, (await makeSigningRequest([])).pem);
    await expect(issue({ ...settings, requestFile })).rejects.toMatchObject({
      message: expect.stringMatching(/is not the key of the request/),
    });
    const files = {
      certificateFile: join(directory, 'host-alpha', 'certificate.pem'),
      keyFile: join(directory, 'host-alpha', 'key.pem'),
    };
    expect(await contentsOf(files)).toEqual(before);
  });
});

async function contentsOf(files: {
  readonly keyFile: string | undefined;
  readonly certificateFile: string;
}): Promise<[string, string]> {
  const { keyFile = '', certificateFile } = files;
  return [await readFile(keyFile, 'utf8'), await readFile(certificateFile, 'utf8')];
}

function fits(certificate: string, key: string): boolean {
  return new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key));
}

/** The key in it is another one than that which has signed it. */
async function tampered(): Promise<Buffer> {
  const [mine, other] = [await makeSigningRequest([]), await makeSigningRequest([])];
  const [point, otherPoint] = [mine.der, other.der].map((der) => {
    const at = der.indexOf(Buffer.from('034200', 'hex')) + 3;
    return der.subarray(at, at + 65);
  });
  otherPoint?.copy(point ?? Buffer.alloc(0));
  return mine.der;
}

async function shortKey(): Promise<Buffer> {
  const { der } = await makeSigningRequest([], {
    name: 'RSASSA-PKCS1-v1_5',
    hash: 'SHA-256',
    modulusLength: 1024,
    publicExponent: new Uint8Array([1, 0, 1]),
  });
  return der;
}

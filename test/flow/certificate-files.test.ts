import { copyFile, readFile, rename, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CertificateStage, KEPT, lists, TAKEN } from '../support/certificate-stage.js';
import { identityUri } from '../support/certificates.js';
import { startFakeAgent } from '../support/fake-agent.js';

const DAY_MS = 24 * 60 * 60 * 1000;

let stage: CertificateStage;
beforeEach(async () => {
  stage = await CertificateStage.open();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

describe('certificate files that cannot be used', () => {
  const BROKEN: [string, () => Promise<unknown>][] = [
    [
      'a certificate whose key has not come yet',
      async () => {
        await copyFile((await stage.next.host('host-b')).certificate, stage.files.certificate);
      },
    ],
    [
      'half a certificate',
      async () => {
        const whole = await readFile((await stage.next.host('host-b')).certificate, 'utf8');
        await writeFile(stage.files.certificate, whole.slice(0, 300));
      },
    ],
    ['an empty CA', () => writeFile(stage.files.ca, '')],
    [
      'a CA that is cut off',
      async () => {
        const whole = await readFile(stage.files.ca, 'utf8');
        await writeFile(stage.files.ca, `${whole}${whole.slice(0, 300)}`);
      },
    ],
    ['no key', () => rename(stage.files.key, `${stage.files.key}.gone`)],
    [
      'the certificate of another host',
      async () => {
        await stage.swap(await stage.next.host('host-c'));
      },
    ],
    [
      "an operator's certificate",
      async () => {
        await stage.swap(await stage.next.operator('host-b'));
      },
    ],
    [
      'one of another trust domain',
      async () => {
        const uris = [identityUri('host', 'host-b', 'elsewhere.test')];
        const leaf = await stage.next.leaf('elsewhere', { commonName: 'x', uris });
        await stage.swap(leaf);
      },
    ],
    [
      'one that has expired',
      async () => {
        const uris = [identityUri('host', 'host-b')];
        const leaf = await stage.next.leaf('expired', { commonName: 'x', uris, days: -1 });
        await stage.swap(leaf);
      },
    ],
  ];

  it.each(BROKEN)(
    'as with %s, are said once not to be, and the ones before stay',
    async (_, spoil) => {
      const keeper = stage.keep({ now: stage.clock() });
      await using agent = await startFakeAgent(keeper, { migrations: { list: () => [] } });
      const before = keeper.material;
      await spoil();
      // Files that come one after the other may be found spoilt in more than one way.
      await stage.manyLooks();
      const errors = stage.lines(KEPT).length;
      expect(errors).toBeGreaterThan(0);
      const [line] = stage.lines(KEPT);
      expect(line).toMatchObject({ level: 'error', fields: { problem: expect.any(String) } });
      expect(line?.fields).not.toHaveProperty('err');
      await stage.manyLooks();
      expect(stage.lines(KEPT)).toHaveLength(errors);
      expect(stage.lines(TAKEN)).toEqual([]);
      expect(keeper.material).toBe(before);
      expect(await lists(agent, await stage.old.operator('alice'))).toBe('let in');
    },
  );

  it('are used once the rest of them has come', async () => {
    stage.keep({ now: stage.clock() });
    const { certificate, key, ca } = await stage.next.host('host-b');
    await copyFile(certificate, stage.files.certificate);
    await stage.logged(KEPT);
    await stage.manyLooks();
    await copyFile(ca, stage.files.ca);
    await copyFile(key, stage.files.key);
    await stage.logged(TAKEN);
  });
});

describe('a certificate that comes to its end', () => {
  it.each([
    ['is not mentioned before the last fifth of its life', 7.9, []],
    ['is warned of in the last fifth of its life', 8.1, [/expires soon/]],
    ['is warned of when it has expired', 10.1, [/has expired/]],
  ])('%s', async (_, afterDays, warnings) => {
    const uris = [identityUri('host', 'host-b')];
    stage.files = await stage.old.leaf('short', { commonName: 'x', uris, days: 10 });
    let now = Date.now() + afterDays * DAY_MS;
    stage.keep({ now: stage.clock(() => now) });
    const warned = () => stage.log.lines.filter(({ level }) => level === 'warn');
    await stage.manyLooks();
    expect(warned().map(({ message }) => message)).toEqual(
      warnings.map((pattern) => expect.stringMatching(pattern)),
    );
    // And again when a day has gone by.
    now += 1.01 * DAY_MS;
    await stage.manyLooks();
    expect(warned().length).toBe(warnings.length + 1);
  });
});

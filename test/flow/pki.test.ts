import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { PeerHandler } from '../../src/migration/peer.js';
import { NO_RECORD } from '../../src/migration/peer.js';
import { TlsKeeper } from '../../src/rpc/tls-keeper.js';
import { readTlsFiles, type TlsMaterial } from '../../src/rpc/tls-material.js';
import {
  type CertificateFiles,
  identityUri,
  makeAuthority,
  makeLeaf,
  writePair,
} from '../support/certificates.js';
import { cli } from '../support/cli-stage.js';
import {
  type FakeAgent,
  fakeHeader,
  memoryLog,
  patiently,
  peersOf,
  startFakeAgent,
} from '../support/fake-agent.js';
import { pkiFolder } from '../support/pki-folder.js';

/** Runs a command about certificates that must succeed, and answers what it says. */
async function pki(...args: readonly string[]): Promise<Record<string, unknown>> {
  const { exitCode, json, stderr } = await cli(['pki', ...args, '--json']);
  expect([exitCode, stderr]).toEqual([0, '']);
  return json()[0] ?? {};
}

/** What `drover pki issue` has written. */
async function issued(directory: string, role: string, name: string): Promise<CertificateFiles> {
  await pki('issue', role, name, '--dir', directory);
  return filesIn(join(directory, `${role}-${name}`));
}

function filesIn(folder: string): CertificateFiles {
  return {
    certificate: join(folder, 'certificate.pem'),
    key: join(folder, 'key.pem'),
    ca: join(folder, 'ca.pem'),
  };
}

async function agentOf(tls: CertificateFiles): Promise<FakeAgent> {
  const peer: Partial<PeerHandler> = { queryMigration: async () => NO_RECORD };
  const migrations = { list: () => [], cancel: () => {} };
  const agent = await startFakeAgent(tls, { migrations: migrations as never, peer });
  onTestFinished(() => agent[Symbol.asyncDispose]());
  return agent;
}

function asCaller(agent: FakeAgent, files: CertificateFiles, ...args: readonly string[]) {
  const { certificate, key, ca } = files;
  const tls = ['--certificate', certificate, '--key', key, '--ca', ca];
  return cli([...args, '--agent', agent.address, ...tls]);
}

/** Asks an agent as another one does, and names what came of it. */
async function asHost(agent: FakeAgent, host: string, files: CertificateFiles): Promise<string> {
  using peers = peersOf(host, files, { 'host-b': agent.address });
  const header = fakeHeader({ sourceHost: host });
  return await peers
    .calls('host-b')
    .queryMigration(header, NO_RECORD, patiently())
    .then(
      () => 'OK',
      (error) => (error as { reason?: string }).reason ?? String(error),
    );
}

describe('certificates of drover pki', () => {
  it('let callers do what their roles may, and hosts call each other', async () => {
    const directory = join(await pkiFolder(), 'ca');
    await pki('init', directory, '--trust-domain', 'fleet.test');
    const agent = await agentOf(await issued(directory, 'host', 'host-b'));
    for (const role of ['scheduler', 'operator', 'observer']) {
      const files = await issued(directory, role, 'someone');
      expect((await asCaller(agent, files, 'migrations')).exitCode, role).toBe(0);
    }
    for (const role of ['scheduler', 'observer']) {
      const files = filesIn(join(directory, `${role}-someone`));
      const refused = await asCaller(agent, files, 'delete', 'web1');
      expect(refused.stderr).toContain('[PERMISSION_DENIED]');
      expect(refused.exitCode).toBe(3);
    }
    expect(await asHost(agent, 'host-a', await issued(directory, 'host', 'host-a'))).toBe('OK');
    const observer = filesIn(join(directory, 'observer-someone'));
    expect(await asHost(agent, 'host-a', observer)).toBe('PERMISSION_DENIED');
    // It is for clients only, and has no name that a server may have.
    const impostor = await agentOf(observer);
    expect((await asCaller(impostor, observer, 'migrations')).stderr).toContain(
      '[TLS_PEER_REJECTED]',
    );
  });

  it('work with an older CA and with a newer one while both are trusted', async () => {
    const folder = await pkiFolder();
    const [older, newer] = [join(folder, 'older'), join(folder, 'newer')];
    await pki('init', older);
    await pki('init', newer);
    const caOf = (directory: string) => readFile(join(directory, 'ca.crt'), 'utf8');
    const caller = await issued(older, 'operator', 'alice');
    const both = (await caOf(newer)) + (await caOf(older));
    await writeFile(join(newer, 'ca.crt'), both);
    const moved = await agentOf(await issued(newer, 'host', 'host-b'));
    // The agent trusts the caller's CA already, but not the other way round.
    expect((await asCaller(moved, caller, 'migrations')).stderr).toContain('[TLS_PEER_REJECTED]');
    await writeFile(join(older, 'ca.crt'), both);
    await issued(older, 'operator', 'alice');
    expect((await asCaller(moved, caller, 'migrations')).exitCode).toBe(0);
    const another = await issued(newer, 'host', 'host-a');
    expect(await asHost(moved, 'host-a', another)).toBe('OK');
    expect(await asHost(moved, 'host-c', await issued(older, 'host', 'host-c'))).toBe('OK');
  });
});

describe('a certificate that is renewed', () => {
  it('is taken by what keeps the certificates of a running agent', async () => {
    const directory = join(await pkiFolder(), 'ca');
    await pki('init', directory);
    const files = await issued(directory, 'host', 'alpha');
    using keeper = new TlsKeeper(files, { log: memoryLog(), pollMs: 20 });
    const before = keeper.material.certificate;
    const taken = new Promise<TlsMaterial>((resolve) => keeper.onChange(resolve));
    await issued(directory, 'host', 'alpha');
    const { certificate, key } = await taken;
    expect(certificate).not.toEqual(before);
    expect(certificate).toEqual(await readFile(files.certificate));
    expect(key).toEqual(await readFile(files.key));
  });
});

describe('the commands', () => {
  it('tell people what they made, what comes next, and what is wrong', async () => {
    const directory = join(await pkiFolder(), 'ca');
    const made = await cli(['pki', 'init', directory, '--days', '10']);
    expect(made.stdout).toContain(`Next: drover pki issue host NAME --dir ${directory}`);
    const cut = await cli(['pki', 'issue', 'host', 'alpha', '--dir', directory]);
    expect(cut.stderr).toBe('The CA ends before: the certificate ends with it.\n');
    expect(cut.stdout).toMatch(/^issued +spiffe:\/\/drover\.internal\/host\/alpha\nuntil /);
    const fine = await cli(['pki', 'show', directory]);
    expect(fine.stdout).toMatch(/who +host alpha\n/);
    expect(fine.exitCode).toBe(0);
    await writeFile(join(directory, 'host-alpha', 'key.pem'), '');
    const wrong = await cli(['pki', 'show', directory]);
    expect(wrong.stdout).toMatch(/\nproblem: .*key\.pem holds no key/);
    expect(wrong.exitCode).toBe(1);
    const [line] = (await cli(['pki', 'show', directory, '--json'])).json();
    expect(line).toMatchObject({
      certificates: [
        { kind: 'authority', trust_domain: 'drover.internal', problems: [] },
        { role: 'host', name: 'alpha', days_left: 9, problems: [expect.anything()] },
      ],
    });
  });

  it.each([
    [['init', '--days', '0'], /Give 1 to 7300 days/],
    [['issue', 'host'], /missing required argument 'name'/],
    [['issue', 'king', 'a', '--dir', 'DIR'], /There is no role "king"/],
    [['issue', 'host', 'a', '--dir', 'DIR', '--csr', 'missing.csr'], /There is no file missing/],
    [['init', 'DIR'], /is there already/],
    [['show', 'DIR/nothing'], /There is no /],
  ])('end with 2 for %j', async (args, message) => {
    const directory = join(await pkiFolder(), 'ca');
    await pki('init', directory);
    const real = args.map((arg) => arg.replace('DIR', directory));
    const { exitCode, stderr } = await cli(['pki', ...real]);
    expect(stderr).toMatch(message);
    expect(exitCode).toBe(2);
  });
});

describe('docs/certificates.md', () => {
  it('has commands that work as they stand there, one after the other', async () => {
    const doc = await readFile(new URL('../../docs/certificates.md', import.meta.url), 'utf8');
    const [, quickStart = ''] = /```sh\n(.*?)```/s.exec(doc) ?? [];
    const commands = [...quickStart.matchAll(/^drover (.*?) *(?:#.*)?$/gm)].map(([, line]) => line);
    expect(commands.length).toBeGreaterThan(4);
    const before = process.cwd();
    process.chdir(await pkiFolder());
    onTestFinished(() => process.chdir(before));
    for (const command of commands) {
      const { exitCode, stderr } = await cli(command?.split(' ') ?? []);
      expect([command, exitCode, stderr]).toEqual([command, 0, '']);
    }
    const { certificates } = await pki('show');
    expect(certificates).toHaveLength(5);
  });
});

describe('certificates with an intermediate', () => {
  let leafOf: (role: 'host' | 'operator', name: string) => Promise<CertificateFiles>;
  let middle: Awaited<ReturnType<typeof makeAuthority>>;

  beforeAll(async () => {
    const root = await makeAuthority('Root');
    middle = await makeAuthority('Middle', root);
    leafOf = async (role, name) => {
      const directory = await pkiFolder();
      await writeFile(join(directory, 'ca.crt'), root.pem.certificate);
      const pair = await makeLeaf(middle, { commonName: name, uris: [identityUri(role, name)] });
      const certificate = pair.certificate + middle.pem.certificate;
      return await writePair(directory, name, { ...pair, certificate });
    };
  });

  it('are those of the first one in the file', async () => {
    const files = await leafOf('host', 'host-b');
    expect(readTlsFiles(files).identity).toMatchObject({ role: 'host', name: 'host-b' });
  });

  it('serve callers and peers that trust only the root', async () => {
    const agent = await agentOf(await leafOf('host', 'host-b'));
    const operator = await leafOf('operator', 'alice');
    expect((await asCaller(agent, operator, 'migrations')).exitCode).toBe(0);
    expect(await asHost(agent, 'host-a', await leafOf('host', 'host-a'))).toBe('OK');
  });

  it('are refused where the intermediate is left out', async () => {
    const agent = await agentOf(await leafOf('host', 'host-b'));
    const files = await leafOf('operator', 'alice');
    const [leaf = ''] = (await readFile(files.certificate, 'utf8')).split(middle.pem.certificate);
    await writeFile(files.certificate, leaf);
    const { stderr, exitCode } = await asCaller(agent, files, 'migrations');
    expect(stderr).toContain('[TLS_PEER_REJECTED]');
    expect(exitCode).toBe(3);
  });
});

import { lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import { Client, credentials, status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { stringify } from 'yaml';
import { loadConfig } from '../../src/agent/config.js';
import { connectAgent } from '../../src/rpc/client.js';
import { openLocalDoor } from '../../src/rpc/local-door.js';
import { deferred } from '../../src/util/deferred.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import { type FakeAgent, startFakeAgent } from '../support/fake-agent.js';
import { callRaw } from '../support/raw-grpc.js';

let certificates: TestCertificates;
let agent: FakeAgent;
beforeAll(async () => {
  certificates = await makeTestCertificates();
  agent = await startFakeAgent(await certificates.host('host-b'));
});
afterAll(async () => {
  await agent?.[Symbol.asyncDispose]();
  await certificates?.[Symbol.asyncDispose]();
});
afterEach(() => void vi.unstubAllEnvs());

describe('the door on the network', () => {
  it('says nothing to a caller without TLS but that it does not understand', async () => {
    const socket = connect({ port: agent.server.port, host: '127.0.0.1' });
    const heard: Buffer[] = [];
    socket.on('data', (bytes) => heard.push(bytes));
    socket.on('error', () => {});
    const closed = new Promise((resolve) => socket.once('close', resolve));
    // The beginning of HTTP/2 in the clear, with empty settings.
    socket.write(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'\0'.repeat(3)}\u0004${'\0'.repeat(5)}`);
    await closed;
    const answer = Buffer.concat(heard);
    // At most one alert of TLS: type, version, length, level, what.
    expect(answer.length).toBeLessThanOrEqual(7);
    if (answer.length > 0) expect(answer[0]).toBe(21);
  });

  it('takes no call without TLS', async () => {
    const client = new Client(agent.address, credentials.createInsecure());
    const answer = await callRaw(client, '/drover.v1.HostService/GetHost', 'unary', {
      sends: true,
    });
    client.close();
    expect(answer).toMatchObject({ code: status.UNAVAILABLE, messages: 0 });
  });
});

describe('the way to other agents', () => {
  it('does not go through TLS 1.2', async () => {
    const { certificate, key, ca } = await certificates.host('host-b');
    const [cert, secret, root] = await Promise.all([certificate, key, ca].map((f) => readFile(f)));
    const old = createTlsServer({
      ...(cert && secret && root ? { cert, key: secret, ca: root } : {}),
      requestCert: true,
      maxVersion: 'TLSv1.2',
      ALPNProtocols: ['h2'],
    });
    const port = await listening(old);
    expect(await reasonOf(`127.0.0.1:${port}`)).toBe('TLS_PEER_REJECTED');
    old.close();
  });

  it('does not go to an agent without TLS', async () => {
    const plain = createServer((socket) => socket.end('hello'));
    const port = await listening(plain);
    expect(await reasonOf(`127.0.0.1:${port}`)).toBe('TLS_PEER_REJECTED');
    plain.close();
  });

  it('checks certificates whatever the environment says', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    await using strangers = await makeTestCertificates();
    await using foreign = await startFakeAgent(await strangers.host('host-b'));
    await using operator = await startFakeAgent(await certificates.operator('mallory'));
    for (const { address } of [foreign, operator]) {
      expect(await reasonOf(address)).toBe('TLS_PEER_REJECTED');
    }
  });
});

describe('the configuration', () => {
  const OFF: [string, unknown][] = [
    ['no tls at all', undefined],
    ['tls: null', null],
    ['tls: false', false],
    ['tls: {}', {}],
    ['tls: {enabled: false}', { enabled: false }],
    ['an extra key that switches it off', { insecure: true }],
    ['an extra key that lowers the version', { min_version: 'TLSv1.2' }],
    ['an extra key that takes callers without certificates', { client_auth: 'none' }],
    ['an extra key that skips the check', { verify: false }],
  ];

  it.each(OFF)('cannot turn TLS off: %s', async (_, tls) => {
    const complete = await certificates.host('host-b');
    const value =
      tls !== null && typeof tls === 'object' && Object.keys(tls).length > 0
        ? { ...complete, ...tls }
        : tls;
    const file = join(certificates.directory, 'agent.yaml');
    const rest = { host: 'host-b', listen: { address: '127.0.0.1:7443' } };
    await writeFile(file, stringify({ ...rest, tls: complete }));
    await expect(loadConfig(file), 'the rest is sound').resolves.toBeDefined();
    await writeFile(file, stringify({ ...rest, ...(value === undefined ? {} : { tls: value }) }));
    await expect(loadConfig(file)).rejects.toMatchObject({ reason: 'CONFIG_INVALID' });
  });
});

describe('the door on this host', () => {
  it('is open to its owner only, from the first moment on, whatever the umask is', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'drover-door-'));
    const path = join(folder, 'drover.sock');
    const before = process.umask(0);
    try {
      const server = createServer();
      let whileListening: unknown;
      const leave = await openLocalDoor(path, async (address) => {
        await new Promise<void>((resolve) => server.listen(address.replace(/^unix:/, ''), resolve));
        // Here it listens and has the umask's mode; nobody else can reach it.
        const [made] = await readdir(folder);
        whileListening = [
          await lstat(path).catch(({ code }) => code),
          (await lstat(join(folder, made ?? ''))).mode & 0o777,
        ];
      });
      expect(whileListening).toEqual(['ENOENT', 0o700]);
      expect((await lstat(path)).mode & 0o777).toBe(0o600);
      expect(await readdir(folder)).toEqual(['drover.sock']);
      const asked = deferred();
      server.once('connection', () => asked.resolve());
      const socket = connect({ path });
      await asked.promise;
      socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await leave();
      expect(await readdir(folder)).toEqual([]);
    } finally {
      process.umask(before);
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('opens at a path as long as such paths may be, and is gone with the agent', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'drover-door-'));
    const path = join(folder, 'x'.repeat(104 - folder.length), 's');
    expect(path).toHaveLength(107);
    await mkdir(dirname(path));
    const server = createServer();
    const leave = await openLocalDoor(
      path,
      (address) =>
        new Promise<void>((resolve) => server.listen(address.replace(/^unix:/, ''), resolve)),
    );
    expect((await lstat(path)).isSocket()).toBe(true);
    await new Promise((resolve) => server.close(resolve));
    await leave();
    await rm(folder, { recursive: true, force: true });
  });

  it('leaves nothing behind where it cannot be opened', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'drover-door-'));
    const failing = openLocalDoor(join(folder, 's'), async () => {
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(await readdir(folder)).toEqual([]);
    await rm(folder, { recursive: true, force: true });
  });

  it('is gone when the agent has ended', async () => {
    const short = await startFakeAgent(await certificates.host('host-b'));
    expect((await lstat(short.socketPath)).mode & 0o777).toBe(0o600);
    await short.server.shutdown(100);
    await expect(lstat(short.socketPath)).rejects.toMatchObject({ code: 'ENOENT' });
    await short[Symbol.asyncDispose]();
  });
});

async function listening(server: ReturnType<typeof createServer>): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const at = server.address();
  return typeof at === 'object' && at ? at.port : 0;
}

async function reasonOf(address: string): Promise<string> {
  using client = connectAgent({ address, tls: await certificates.operator('alice') });
  return await client.hosts.getHost({}).then(
    () => 'let in',
    ({ reason }) => reason,
  );
}

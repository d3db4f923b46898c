import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import { createChannel, createClient, Metadata } from 'nice-grpc';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HostServiceDefinition } from '../../src/gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../../src/gen/drover/v1/migration_service.js';
import { NO_RECORD } from '../../src/migration/peer.js';
import { connectAgent } from '../../src/rpc/client.js';
import { Connection } from '../../src/rpc/connection.js';
import { headerToWire } from '../../src/rpc/convert-peer.js';
import { CERTIFICATE_KEY } from '../../src/rpc/interceptors.js';
import { peerDefinition } from '../../src/rpc/peer-definition.js';
import { startRpcServer } from '../../src/rpc/server.js';
import {
  identityUri,
  makeTestCertificates,
  type TestCertificates,
} from '../support/certificates.js';
import {
  type FakeAgent,
  fakeHeader,
  memoryLog,
  patiently,
  peersOf,
  startFakeAgent,
} from '../support/fake-agent.js';

const run = promisify(execFile);

describe('who may call an agent', () => {
  let certificates: TestCertificates;
  let strangers: TestCertificates;
  let agent: FakeAgent;

  beforeAll(async () => {
    certificates = await makeTestCertificates();
    strangers = await makeTestCertificates();
    agent = await startFakeAgent(await certificates.host('host-b'), {
      migrations: {
        list: () => [],
        cancel: (_id, caller) => {
          throw new Error(`by ${caller}`);
        },
      },
      peer: {
        queryMigration: async () => NO_RECORD,
        abort: async () => ({ ...NO_RECORD, record: 'ABORTED', journalId: 'j' }),
      },
    });
  });
  afterAll(async () => {
    await agent?.[Symbol.asyncDispose]();
    await certificates?.[Symbol.asyncDispose]();
    await strangers?.[Symbol.asyncDispose]();
  });

  it('lets an operator manage migrations over the network', async () => {
    using client = connectAgent({
      address: agent.address,
      tls: await certificates.operator('alice'),
    });
    expect(await client.migrations.listMigrations({})).toMatchObject({ migrations: [] });
    await expect(client.migrations.cancelMigration({ migrationId: 'x' })).rejects.toMatchObject({
      reason: 'INTERNAL',
      message: 'by operator alice',
    });
  });

  it('takes whoever may open the unix socket, its owner, as the operator "local"', async () => {
    using client = connectAgent({ address: `unix:${agent.socketPath}`, tls: undefined });
    await expect(client.migrations.cancelMigration({ migrationId: 'x' })).rejects.toThrow(
      'by operator local',
    );
    expect((await stat(agent.socketPath)).mode & 0o777).toBe(0o600);
  });

  it('keeps hosts from managing migrations, and operators from calls between agents', async () => {
    using asHost = connectAgent({
      address: agent.address,
      tls: await certificates.host('host-a'),
    });
    await expect(asHost.migrations.listMigrations({})).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
    expect((await asHost.hosts.getHost({})).host?.name).toBe('host-b');

    const asOperator = new Connection({
      address: agent.address,
      tls: await certificates.operator('alice'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    const request = { header: headerToWire(fakeHeader()) };
    await expect(
      asOperator.client(peerDefinition, {}).queryMigration(request),
    ).rejects.toMatchObject({ reason: 'PERMISSION_DENIED' });
    asOperator.close();
  });

  it('lets a host speak only for migrations in which it takes part', async () => {
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });
    const calls = peers.calls('host-b');
    const foreign = fakeHeader({ sourceHost: 'host-c' });
    const arriving = fakeHeader({ sourceHost: 'host-b', destinationHost: 'host-a' });
    await expect(calls.queryMigration(fakeHeader(), NO_RECORD, patiently())).resolves.toMatchObject(
      {
        record: 'NONE',
      },
    );
    await expect(calls.queryMigration(arriving, NO_RECORD, patiently())).resolves.toBeDefined();
    await expect(calls.queryMigration(foreign, NO_RECORD, patiently())).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
    await expect(calls.abort(fakeHeader(), patiently())).resolves.toBeDefined();
    await expect(calls.abort(arriving, patiently())).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
  });

  it('believes no certificate that the caller itself sends as metadata', async () => {
    const operator = await certificates.operator('alice');
    const forged = Metadata({ [CERTIFICATE_KEY]: derOf(operator.certificate) });
    const asHost = new Connection({
      address: agent.address,
      tls: await certificates.host('host-a'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    await expect(
      asHost.client(MigrationServiceDefinition, {}).listMigrations({}, { metadata: forged }),
    ).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
      message: expect.stringMatching(/host host-a/),
    });
    asHost.close();
  });

  it.each([
    ['no URI', []],
    ['two URIs', [identityUri('host', 'host-a'), identityUri('operator', 'alice')]],
    ['a URI of another kind', ['spiffe://drover.test/service/x']],
    ['another trust domain', [identityUri('operator', 'alice', 'elsewhere.test')]],
  ])('denies a certificate of the CA with %s', async (what, uris) => {
    const tls = await certificates.leaf(what.replaceAll(' ', '-'), { commonName: 'x', uris });
    // Our own client refuses to start with some of these, so a plain one is used.
    const response = await rawCall(agent.address, tls);
    expect(response).toMatch(/PERMISSION_DENIED/);
    expect(agent.log.lines.at(-1)).toMatchObject({ level: 'warn', message: 'caller refused' });
  });

  it('tells a caller of another CA that certificates do not fit, whoever finds out', async () => {
    const foreign = await strangers.host('host-a');
    const ours = await certificates.host('host-a');
    using nobodyTrusts = peersOf('host-a', foreign, { 'host-b': agent.address });
    await expect(
      nobodyTrusts.calls('host-b').queryMigration(fakeHeader(), NO_RECORD, patiently()),
    ).rejects.toMatchObject({ reason: 'TLS_PEER_REJECTED' });
    using agentDoesNotTrust = peersOf(
      'host-a',
      { ...foreign, ca: ours.ca },
      { 'host-b': agent.address },
    );
    await expect(
      agentDoesNotTrust.calls('host-b').queryMigration(fakeHeader(), NO_RECORD, patiently()),
    ).rejects.toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      message: `The agent of host-b (${agent.address}) does not accept the certificate of host host-a.`,
    });
  });

  it('tells a caller whose certificate has expired so, with its date', async () => {
    const says = (who: string) =>
      expect.stringMatching(
        new RegExp(
          `^The agent (of|at) .*${agent.address}\\)? does not accept the certificate of ${who}, which has expired \\(\\d{4}-.*Z\\)\\.$`,
        ),
      );
    const expired = async (role: 'host' | 'operator', name: string) =>
      await certificates.leaf(`over-${role}`, {
        commonName: name,
        uris: [identityUri(role, name)],
        days: -1,
      });
    const hint = 'Renew it: drover pki issue, or by your CA.';
    using peers = peersOf('host-a', await expired('host', 'host-a'), { 'host-b': agent.address });
    await expect(
      peers.calls('host-b').queryMigration(fakeHeader(), NO_RECORD, patiently()),
    ).rejects.toMatchObject({ reason: 'TLS_PEER_REJECTED', message: says('host host-a'), hint });
    using client = connectAgent({
      address: agent.address,
      tls: await expired('operator', 'alice'),
    });
    await expect(client.hosts.getHost({})).rejects.toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      message: says('the operator alice'),
      hint,
    });
  });

  it('refuses the agent of another host than the one that was dialled', async () => {
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-c': agent.address });
    await expect(
      peers.calls('host-c').queryMigration(fakeHeader(), NO_RECORD, patiently()),
    ).rejects.toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      message: expect.stringMatching(/The agent is that of host-b, not of host-c/),
    });
  });

  it("refuses an agent whose certificate is an operator's, and one that has expired", async () => {
    const operator = await startFakeAgent(await certificates.operator('mallory'));
    const expired = await startFakeAgent(
      await certificates.leaf('expired', {
        commonName: 'x',
        uris: [identityUri('host', 'host-b')],
        days: -1,
      }),
    );
    const tls = await certificates.operator('alice');
    for (const [fake, message] of [
      [operator, /of the operator mallory, not of a host/],
      [expired, /CERT_HAS_EXPIRED/],
    ] as const) {
      using client = connectAgent({ address: fake.address, tls });
      await expect(client.hosts.getHost({})).rejects.toMatchObject({
        reason: 'TLS_PEER_REJECTED',
        message: expect.stringMatching(message),
      });
      await fake[Symbol.asyncDispose]();
    }
  });

  it('lets nobody in without a certificate, and nothing below TLS 1.3', async () => {
    const { ca, certificate, key } = await certificates.operator('alice');
    const port = agent.server.port;
    expect(await handshake({ port, ca: readFileSync(ca) })).not.toBe('settings');
    const full = {
      port,
      ca: readFileSync(ca),
      cert: readFileSync(certificate),
      key: readFileSync(key),
    };
    expect(await handshake({ ...full, maxVersion: 'TLSv1.2' })).not.toBe('settings');
    expect(await handshake(full)).toBe('settings');
  });

  it('takes over the socket of an agent that was killed, but no live one and no file', async () => {
    const tls = await certificates.host('host-b');
    const settings = {
      address: '127.0.0.1:0',
      tls,
      agentVersion: '',
      log: memoryLog(),
      ports: {} as never,
    };
    await expect(
      startRpcServer({ ...settings, socketPath: agent.socketPath }),
    ).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: expect.stringMatching(/Another agent listens/),
    });
    const file = `${agent.socketPath}.txt`;
    await writeFile(file, 'precious');
    await expect(startRpcServer({ ...settings, socketPath: file })).rejects.toMatchObject({
      message: expect.stringMatching(/is not a socket/),
    });
    const stale = `${agent.socketPath}.stale`;
    const listening = `require('net').createServer().listen(${JSON.stringify(stale)}, die)`;
    const dying = "function die() { process.kill(process.pid, 'SIGKILL'); }";
    await run(process.execPath, ['-e', `${listening}; ${dying}`]).catch(() => {});
    expect((await stat(stale)).isSocket()).toBe(true);
    const server = await startRpcServer({ ...settings, socketPath: stale });
    await server.shutdown(100);
  });
});

function derOf(path: string): Buffer {
  return Buffer.from(readFileSync(path, 'utf8').replaceAll(/-----[^-]+-----|\s/g, ''), 'base64');
}

async function rawCall(address: string, files: { ca: string; certificate: string; key: string }) {
  const { ChannelCredentials } = await import('@grpc/grpc-js');
  const channel = createChannel(
    address,
    ChannelCredentials.createSsl(
      readFileSync(files.ca),
      readFileSync(files.key),
      readFileSync(files.certificate),
    ),
    { 'grpc.ssl_target_name_override': 'drover', 'grpc.use_local_subchannel_pool': 1 },
  );
  try {
    await createClient(HostServiceDefinition, channel).getHost({});
    return 'let in';
  } catch (error) {
    return String(error);
  } finally {
    channel.close();
  }
}

/** How far a connection comes: `settings` when the server has begun to speak HTTP/2. */
function handshake(options: ConnectionOptions): Promise<string> {
  return new Promise((resolve) => {
    const socket = connectTls({
      ...options,
      host: '127.0.0.1',
      servername: 'drover',
      ALPNProtocols: ['h2'],
    });
    const finish = (how: string) => {
      socket.destroy();
      resolve(how);
    };
    socket.on('data', () => finish('settings'));
    socket.on('error', (error) => finish(String(error)));
    socket.on('close', () => finish('closed'));
  });
}

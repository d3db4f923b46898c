import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { HealthDefinition } from 'nice-grpc-server-health';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectAgent } from '../../src/rpc/client.js';
import { Connection } from '../../src/rpc/connection.js';
import { headerToWire } from '../../src/rpc/convert-peer.js';
import { peerDefinition } from '../../src/rpc/peer-definition.js';
import { deferred } from '../../src/util/deferred.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import {
  type FakeAgent,
  fakeHeader,
  patiently,
  peersOf,
  startFakeAgent,
} from '../support/fake-agent.js';
import { fakeMigration } from '../support/fake-migration.js';

const run = promisify(execFile);

describe('the services of an agent', () => {
  let certificates: TestCertificates;
  beforeAll(async () => {
    certificates = await makeTestCertificates();
  });
  afterAll(() => certificates?.[Symbol.asyncDispose]());

  it('carry an error with reason, side, facts, hint and all violations to the caller', async () => {
    await using agent = await startFakeAgent(await certificates.host('host-b'), {
      domains: {
        create: async () => {
          throw new ReasonedError('DISK_NO_SPACE', 'The pool is too small.', {
            side: 'destination',
            facts: { required_bytes: 10, pool: 'default' },
            violations: Array.from({ length: 40 }, (_, index) => ({
              reason: 'SPEC_INVALID' as const,
              subject: `disks[${index}].size`,
              message: 'ü'.repeat(2000),
            })),
          });
        },
      },
    });
    using client = connectAgent({ address: `unix:${agent.socketPath}`, tls: undefined });
    const error = await client.domains.createDomain({ spec: { name: 'x' } }).catch((e) => e);
    expect(error).toMatchObject({
      reason: 'DISK_NO_SPACE',
      message: 'The pool is too small.',
      side: 'destination',
      facts: { required_bytes: '10', pool: 'default' },
      hint: 'Free space in the pool, or choose another host.',
    });
    expect(error.violations).toHaveLength(16);
    expect(error.violations[3]).toMatchObject({ reason: 'SPEC_INVALID', subject: 'disks[3].size' });
  });

  it('log a call that fails by a fault of ours as an error, and other calls at debug', async () => {
    await using agent = await startFakeAgent(await certificates.host('host-b'), {
      host: {
        facts: async () => {
          throw new TypeError('a bug');
        },
      },
    });
    using client = connectAgent({ address: `unix:${agent.socketPath}`, tls: undefined });
    await expect(client.hosts.getHost({})).rejects.toMatchObject({
      reason: 'INTERNAL',
      message: 'a bug',
    });
    await client.hosts.listPeers({});
    expect(agent.log.lines).toMatchObject([
      { level: 'error', fields: { method: '/drover.v1.HostService/GetHost', reason: 'INTERNAL' } },
      { level: 'debug', fields: { caller: 'operator/local', reason: 'OK' } },
    ]);
  });

  it('refuse a peer that speaks another version, and a request without header', async () => {
    await using agent = await startFakeAgent(await certificates.host('host-b'));
    const connection = new Connection({
      address: agent.address,
      tls: await certificates.host('host-a'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    const client = connection.client(peerDefinition, {});
    const header = { ...headerToWire(fakeHeader()), protocolVersion: 2 };
    await expect(client.abort({ header })).rejects.toMatchObject({ reason: 'VERSION_SKEW' });
    await expect(client.abort({})).rejects.toMatchObject({ reason: 'REQUEST_INVALID' });
    connection.close();
  });

  it('answer STALLED to a long call whose time is up, so that the source asks again', async () => {
    const aborted = deferred<unknown>();
    await using agent = await startFakeAgent(await certificates.host('host-b'), {
      peer: {
        awaitLoaded: (_header, { signal }) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              aborted.resolve(signal.reason);
              reject(signal.reason);
            });
          }),
      },
    });
    const connection = new Connection({
      address: agent.address,
      tls: await certificates.host('host-a'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    const client = connection.client(peerDefinition, { awaitLoaded: 100 });
    const request = { header: headerToWire(fakeHeader()) };
    await expect(client.awaitLoaded(request, { silent: 'STALLED' })).rejects.toMatchObject({
      reason: 'STALLED',
      message: expect.stringMatching(
        /^The agent of host-b .* did not answer AwaitLoaded in time\.$/,
      ),
    });
    await expect(client.awaitLoaded(request)).rejects.toMatchObject({ reason: 'PEER_UNREACHABLE' });
    expect(await aborted.promise).toMatchObject({ reason: 'PEER_LOST' });
    connection.close();
  });

  it('end what only waits when the agent stops, and let the rest finish', async () => {
    const watching = deferred();
    const committing = deferred();
    const stopping = deferred();
    const agent = await startFakeAgent(await certificates.host('host-b'), {
      migrations: {
        async *watch(_id, { signal }) {
          yield fakeMigration();
          watching.resolve();
          await new Promise((_resolve, reject) =>
            signal.addEventListener('abort', () => reject(signal.reason)),
          );
        },
      },
      peer: {
        commit: async () => {
          committing.resolve();
          await stopping.promise;
          return { outcome: 'RUNNING', cost: { journalUs: 1, handledUs: 2 } };
        },
        awaitLoaded: () => new Promise(() => {}),
      },
    });
    using client = connectAgent({ address: `unix:${agent.socketPath}`, tls: undefined });
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });
    const calls = peers.calls('host-b');
    const watch = (async () => {
      for await (const { migration } of client.migrations.watchMigration({ migrationId: 'x' })) {
        expect(migration?.state).toBe('STATE_RUNNING');
      }
    })();
    const committed = calls.commit(fakeHeader(), { paused: false }, patiently());
    const watchEnds = expect(watch).rejects.toMatchObject({
      reason: 'AGENT_UNREACHABLE',
      message: 'This agent is shutting down.',
    });
    await Promise.all([watching.promise, committing.promise]);
    const startedMs = performance.now();
    const stopped = agent.server.shutdown(5_000);
    await watchEnds;
    stopping.resolve();
    expect(await committed).toMatchObject({ outcome: 'RUNNING' });
    await stopped;
    expect(performance.now() - startedMs).toBeLessThan(4_000);
    await agent[Symbol.asyncDispose]();
  });

  it('are cut off when they take longer to finish than the limit', async () => {
    const called = deferred();
    const agent = await startFakeAgent(await certificates.host('host-b'), {
      peer: {
        commit: () => {
          called.resolve();
          return new Promise(() => {});
        },
      },
    });
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });
    const call = peers.calls('host-b').commit(fakeHeader(), { paused: false }, patiently());
    const outcome = expect(call).rejects.toMatchObject({ reason: 'PEER_UNREACHABLE' });
    await called.promise;
    await agent.server.shutdown(100);
    await outcome;
    await agent[Symbol.asyncDispose]();
  });

  it('answer health, and say when the agent is stopping', async () => {
    await using agent = await startFakeAgent(await certificates.host('host-b'));
    const connection = new Connection({ socketPath: agent.socketPath });
    const client = connection.client(HealthDefinition, {});
    expect(await client.check({ service: '' })).toMatchObject({ status: 1 });
    agent.server.health.setStatus('unhealthy');
    expect(await client.check({ service: '' })).toMatchObject({ status: 2 });
    connection.close();
  });

  describe('as buf curl sees them', () => {
    let agent: FakeAgent;
    beforeAll(async () => {
      agent = await startFakeAgent(await certificates.host('host-b'), {
        migrations: { start: async (request) => ({ ...fakeMigration(), ...request }) as never },
      });
    });
    afterAll(() => agent?.[Symbol.asyncDispose]());

    it('are listed by reflection over mutual TLS', async () => {
      const { ca, certificate, key } = await certificates.operator('alice');
      const { stdout } = await run('node_modules/.bin/buf', [
        ...['curl', '--protocol', 'grpc', '--servername', 'drover'],
        ...['--cacert', ca, '--cert', certificate, '--key', key],
        ...['--list-services', `https://127.0.0.1:${agent.server.port}`],
      ]);
      expect(stdout.trim().split('\n')).toEqual([
        'drover.v1.DomainService',
        'drover.v1.HostService',
        'drover.v1.MigrationService',
        'drover.v1.PeerService',
        'grpc.health.v1.Health',
      ]);
    });

    it('can be called without any proto file, and tell their errors', async () => {
      const curl = (method: string, request: object) =>
        run('node_modules/.bin/buf', [
          ...['curl', '--protocol', 'grpc', '--http2-prior-knowledge'],
          ...['--unix-socket', agent.socketPath, '-d', JSON.stringify(request)],
          `http://localhost/${method}`,
        ]);
      const health = await curl('grpc.health.v1.Health/Check', {});
      expect(JSON.parse(health.stdout)).toEqual({ status: 'SERVING' });
      const started = await curl('drover.v1.MigrationService/StartMigration', {
        domain: 'web',
        destination_host: 'host-b',
      });
      expect(JSON.parse(started.stdout)).toMatchObject({
        migration: { destinationHost: 'host-b', state: 'STATE_RUNNING', phase: 'PHASE_MIRROR' },
      });
      await expect(curl('drover.v1.PeerService/Abort', {})).rejects.toMatchObject({
        stderr: expect.stringMatching(/permission_denied/),
      });
    });
  });
});

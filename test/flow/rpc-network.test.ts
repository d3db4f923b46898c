import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NO_RECORD } from '../../src/migration/peer.js';
import { connectAgent } from '../../src/rpc/client.js';
import { deferred } from '../../src/util/deferred.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import { fakeHeader, patiently, peersOf, startFakeAgent } from '../support/fake-agent.js';

describe('an agent that cannot be reached', () => {
  let certificates: TestCertificates;
  beforeAll(async () => {
    certificates = await makeTestCertificates();
  });
  afterAll(() => certificates?.[Symbol.asyncDispose]());
  const ask = async (address: string) => {
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': address });
    return await peers.calls('host-b').queryMigration(fakeHeader(), NO_RECORD, patiently());
  };

  it('is PEER_UNREACHABLE at once when nobody listens', async () => {
    const { port, close } = await listen(() => {});
    await close();
    await expect(ask(`127.0.0.1:${port}`)).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
      message: `The agent of host-b (127.0.0.1:${port}) cannot be reached: ECONNREFUSED.`,
      facts: { address: `127.0.0.1:${port}` },
    });
  });

  it('is PEER_UNREACHABLE when the name is unknown', async () => {
    await expect(ask('no-such-host.invalid:7443')).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
    });
  });

  it('is PEER_UNREACHABLE within 10 s when it takes connections and says nothing', async () => {
    const silent = await listen(() => {});
    const startedMs = performance.now();
    await expect(ask(`127.0.0.1:${silent.port}`)).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
      message: expect.stringMatching(/takes connections but is silent/),
    });
    expect(performance.now() - startedMs).toBeLessThan(10_000);
    await silent.close();
  });

  it('is TLS_PEER_REJECTED when what listens there does not speak TLS', async () => {
    const plain = await listen((socket) => socket.end('hello\r\n'));
    await expect(ask(`127.0.0.1:${plain.port}`)).rejects.toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      message: expect.stringMatching(/does not speak TLS/),
    });
    await plain.close();
  });

  it('is AGENT_UNREACHABLE for a person, on the network as on the socket', async () => {
    const { port, close } = await listen(() => {});
    await close();
    const tls = await certificates.operator('alice');
    for (const address of [`127.0.0.1:${port}`, 'unix:/nowhere/drover.sock']) {
      using client = connectAgent({ address, tls });
      await expect(client.hosts.getHost({})).rejects.toMatchObject({ reason: 'AGENT_UNREACHABLE' });
    }
  });

  it('is found by keepalive when it falls silent during a call', { timeout: 30_000 }, async () => {
    const waiting = deferred();
    await using agent = await startFakeAgent(await certificates.host('host-b'), {
      peer: {
        awaitLoaded: () => {
          waiting.resolve();
          return new Promise(() => {});
        },
      },
    });
    const proxy = await silencableProxy(agent.server.port);
    using peers = peersOf('host-a', await certificates.host('host-a'), {
      'host-b': `127.0.0.1:${proxy.port}`,
    });
    const call = peers.calls('host-b').awaitLoaded(fakeHeader(), patiently());
    const startedMs = performance.now();
    const outcome = expect(call).rejects.toMatchObject({ reason: 'PEER_UNREACHABLE' });
    await waiting.promise;
    proxy.silence();
    await outcome;
    // 5 s until the ping, 5 s for its answer, 3 s to find out why; the call itself may take 20 s.
    expect(performance.now() - startedMs).toBeLessThan(18_000);
    await proxy.close();
  });

  it('is called again, with the certificate files as they are then, once it is back', async () => {
    const { port, close } = await listen(() => {});
    await close();
    using peers = peersOf('host-a', await certificates.host('host-a'), {
      'host-b': `127.0.0.1:${port}`,
    });
    const calls = peers.calls('host-b');
    await expect(calls.queryMigration(fakeHeader(), NO_RECORD, patiently())).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
    });
    await using agent = await startFakeAgent(await certificates.host('host-b'), {
      address: `127.0.0.1:${port}`,
      peer: {
        queryMigration: async () => NO_RECORD,
      },
    });
    expect(agent.server.port).toBe(port);
    await expect(calls.queryMigration(fakeHeader(), NO_RECORD, patiently())).resolves.toMatchObject(
      {
        record: 'NONE',
      },
    );
  });

  it('ends a wait with the reason of its signal', async () => {
    const silent = await listen(() => {});
    using peers = peersOf('host-a', await certificates.host('host-a'), {
      'host-b': `127.0.0.1:${silent.port}`,
    });
    const controller = new AbortController();
    const options = { signal: controller.signal };
    const call = peers.calls('host-b').queryMigration(fakeHeader(), NO_RECORD, options);
    const outcome = expect(call).rejects.toThrow('enough of this');
    controller.abort(new Error('enough of this'));
    await outcome;
    await silent.close();
  });

  it('takes of the version that a peer says it has no more than a line of text', async () => {
    const agentVersion = `1.0\u001b[2J\n${'x'.repeat(100_000)}`;
    await using agent = await startFakeAgent(await certificates.host('host-b'), { agentVersion });
    using peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });
    const [peer] = await peers.describe();
    expect(peer?.agentVersion).toMatch(/^1\.0\?\[2J x+…$/);
    expect(peer?.agentVersion.length).toBeLessThan(100);
  });

  it('is listed as not reachable, with the reason, beside those that answer', async () => {
    await using agent = await startFakeAgent(await certificates.host('host-b'));
    using peers = peersOf('host-a', await certificates.host('host-a'), {
      'host-c': '127.0.0.1:1',
      'host-b': agent.address,
    });
    expect(await peers.describe()).toMatchObject([
      { name: 'host-b', reachable: true, agentVersion: '0.0.0-test', problem: '' },
      {
        name: 'host-c',
        reachable: false,
        agentVersion: '',
        problem: expect.stringMatching(/ECONNREFUSED/),
      },
    ]);
  });
});

interface Listener {
  readonly port: number;
  close(): Promise<void>;
}

/** Listens on a free port of loopback; closing ends the connections too. */
async function listen(onConnection: (socket: Socket) => void): Promise<Listener> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

/** A proxy that can stop passing anything on without closing a connection. */
async function silencableProxy(target: number): Promise<Listener & { silence(): void }> {
  let silent = false;
  const listener = await listen((near) => {
    const far = connect(target, '127.0.0.1');
    far.on('error', () => {});
    near.on('data', (bytes) => silent || far.write(bytes));
    far.on('data', (bytes) => silent || near.write(bytes));
    near.on('close', () => far.destroy());
  });
  return { ...listener, silence: () => (silent = true) };
}

import { readFileSync } from 'node:fs';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectAgent } from '../../src/rpc/client.js';
import {
  MESSAGE_LIMIT_BYTES,
  STREAMS_PER_CONNECTION,
  UNFINISHED_PER_CALLER,
} from '../../src/rpc/limits.js';
import type { AuditEvent } from '../../src/util/audit.js';
import {
  type CertificateFiles,
  makeTestCertificates,
  type TestCertificates,
} from '../support/certificates.js';
import { type FakeAgent, type FakePorts, startFakeAgent } from '../support/fake-agent.js';

type Event = Omit<AuditEvent, 'time'>;

const GET_HOST = '/drover.v1.HostService/GetHost';
const WATCH = '/drover.v1.MigrationService/WatchMigration';
const HEADERS = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };
const PREFACE = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  // Empty SETTINGS.
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);

describe('the limits of the door', () => {
  let certificates: TestCertificates;
  let operator: CertificateFiles;
  const open: AsyncDisposable[] = [];
  const ends: (() => void)[] = [];

  beforeAll(async () => {
    certificates = await makeTestCertificates();
    operator = await certificates.operator('alice');
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) end();
    for (const one of open.splice(0)) await one[Symbol.asyncDispose]();
  });
  afterAll(() => certificates[Symbol.asyncDispose]());

  async function agentWith(ports: FakePorts): Promise<{ agent: FakeAgent; events: Event[] }> {
    const events: Event[] = [];
    const audit = { record: (event: Event) => void events.push(event) };
    const agent = await startFakeAgent(await certificates.host('host-b'), { audit, ...ports });
    open.push(agent);
    return { agent, events };
  }

  function tcp({ server: { port } }: FakeAgent): Socket {
    const socket = connectTcp({ port, host: '127.0.0.1' });
    socket.on('error', () => {});
    ends.push(() => socket.destroy());
    return socket;
  }

  async function tls({ server: { port } }: FakeAgent, files = operator): Promise<TLSSocket> {
    const socket = connectTls({
      port,
      host: '127.0.0.1',
      ca: readFileSync(files.ca),
      cert: readFileSync(files.certificate),
      key: readFileSync(files.key),
      servername: 'drover',
      ALPNProtocols: ['h2'],
    });
    socket.on('error', () => {});
    ends.push(() => socket.destroy());
    await new Promise<void>((resolve) => socket.once('secureConnect', () => resolve()));
    return socket;
  }

  async function http2(agent: FakeAgent, files = operator): Promise<ClientHttp2Session> {
    const socket = await tls(agent, files);
    const session = connectHttp2('https://drover', { createConnection: () => socket });
    session.on('error', () => {});
    ends.push(() => session.destroy());
    return session;
  }

  it('closes a connection that sends nothing, and one that ends half-way through TLS', async () => {
    const { agent, events } = await agentWith({ limits: { connectMs: 300 } });
    const [silent, half] = [tcp(agent), tcp(agent)];
    // The beginning of a ClientHello that never goes on.
    half.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]));
    await Promise.all([closed(silent), closed(half)]);
    expect(events).toHaveLength(2);
    expect(events[0]).toMatchObject({
      caller: '127.0.0.1',
      action: 'CONNECT',
      decision: 'DENIED',
      reason: 'LIMIT_REACHED',
      message: expect.stringContaining('limits.connect_ms is 300'),
    });
  });

  it('closes one that proves who it is and then sends no preface, or only that, or half a header', async () => {
    const { agent } = await agentWith({ limits: { connectMs: 700 } });
    const [quiet, preface, header] = await Promise.all([tls(agent), tls(agent), tls(agent)]);
    preface.write(PREFACE);
    // HEADERS without END_HEADERS, which no CONTINUATION follows.
    header.write(Buffer.concat([PREFACE, Buffer.from([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83])]));
    await Promise.all([closed(quiet), closed(preface), closed(header)]);
  });

  it('leaves alone one that has made a call in time, until it has been idle for long', async () => {
    const { agent } = await agentWith({ limits: { connectMs: 300, idleMs: 1_000 } });
    using client = connectAgent({ address: agent.address, tls: operator });
    await client.hosts.getHost({});
    const session = await http2(agent);
    const startedMs = performance.now();
    await finished(session, GET_HOST, message(Buffer.alloc(0)));
    await new Promise<void>((resolve) => session.once('close', () => resolve()));
    expect(performance.now() - startedMs).toBeGreaterThan(900);
    // Our own clients connect again, and nobody notices.
    await client.hosts.getHost({});
  });

  it('ends a call whose request does not come, saying which limit it was', async () => {
    const { agent, events } = await agentWith({ limits: { requestMs: 300 } });
    const session = await http2(agent);
    const nothing = finished(session, GET_HOST, undefined);
    const part = finished(session, GET_HOST, message(Buffer.alloc(100)).subarray(0, 50));
    for (const answer of await Promise.all([nothing, part])) {
      expect(answer['grpc-status']).toBe(String(status.RESOURCE_EXHAUSTED));
      expect(decodeURI(String(answer['grpc-message']))).toContain('limits.request_ms is 300');
      expect(Buffer.from(String(answer['grpc-status-details-bin']), 'base64').toString()).toContain(
        'LIMIT_REACHED',
      );
    }
    expect(events.map(({ caller, action, reason }) => ({ caller, action, reason }))).toEqual(
      Array(2).fill({ caller: 'operator/alice', action: GET_HOST, reason: 'LIMIT_REACHED' }),
    );
  });

  it('holds only so many requests of one caller that are still coming', async () => {
    const { agent } = await agentWith({ limits: { requestMs: 60_000 } });
    const session = await http2(agent);
    const path = GET_HOST;
    const half = message(Buffer.alloc(100)).subarray(0, 50);
    for (let i = 0; i < UNFINISHED_PER_CALLER; i++) {
      session
        .request({ ...HEADERS, ':path': path })
        .on('error', () => {})
        .write(half);
    }
    const answer = await finished(session, path, message(Buffer.alloc(0)));
    expect(answer['grpc-status']).toBe(String(status.RESOURCE_EXHAUSTED));
    using other = connectAgent({ address: agent.address, tls: await certificates.operator('bob') });
    expect((await other.hosts.getHost({})).host?.name).toBe('host-b');
  });

  it('takes only so many connections of one address, and of all', async () => {
    for (const limits of [{ connectionsPerAddress: 4 }, { connections: 4 }]) {
      const { agent, events } = await agentWith({ limits: { ...limits, connectMs: 60_000 } });
      const sockets = Array.from({ length: 4 }, () => tcp(agent));
      await Promise.all(sockets.map(connected));
      const further = tcp(agent);
      await closed(further);
      expect(sockets.filter(({ destroyed }) => destroyed)).toEqual([]);
      expect(events).toEqual([expect.objectContaining({ reason: 'LIMIT_REACHED' })]);
      // There is room again when one has gone.
      sockets[0]?.destroy();
      await patientlyCall(agent);
    }
  });

  async function patientlyCall(agent: FakeAgent): Promise<void> {
    using client = connectAgent({ address: agent.address, tls: operator });
    expect((await client.hosts.getHost({})).host?.name).toBe('host-b');
  }

  it('takes only so many calls of one caller, and others go on', async () => {
    const { agent } = await agentWith({
      limits: { callsPerCaller: 8 },
      migrations: { watch: watchForever },
    });
    const session = await http2(agent);
    const request = message(Buffer.from([0x0a, 1, 0x78]));
    const watches = Array.from({ length: 8 }, () =>
      session.request({ ...HEADERS, ':path': WATCH }),
    );
    for (const watch of watches) watch.on('error', () => {}).end(request);
    await Promise.all(watches.map((watch) => new Promise((seen) => watch.once('data', seen))));
    const answer = await finished(session, WATCH, request);
    expect(answer['grpc-status']).toBe(String(status.RESOURCE_EXHAUSTED));
    expect(decodeURI(String(answer['grpc-message']))).toContain('limits.calls_per_caller is 8');
    using other = connectAgent({ address: agent.address, tls: await certificates.operator('bob') });
    expect((await other.hosts.getHost({})).host?.name).toBe('host-b');
    // A call of its own is taken again when one has ended.
    const gone = new Promise((resolve) => watches[0]?.once('close', resolve));
    watches[0]?.close();
    await gone;
    await expect
      .poll(
        async () => (await finished(session, GET_HOST, message(Buffer.alloc(0))))['grpc-status'],
      )
      .toBe('0');
  });

  it('forgets calls that are reset as soon as they are made', async () => {
    const { agent } = await agentWith({
      limits: { callsPerCaller: 8 },
      migrations: { watch: watchForever },
    });
    const session = await http2(agent);
    for (let round = 0; round < 20; round++) {
      const calls = Array.from({ length: 8 }, () =>
        session.request({ ...HEADERS, ':path': WATCH }),
      );
      const gone = calls.map((call) => new Promise((resolve) => call.once('close', resolve)));
      for (const call of calls) {
        call.on('error', () => {});
        call.end(message(Buffer.from([0x0a, 1, 0x78])));
        call.close();
      }
      await Promise.all(gone);
    }
    const free = async () => {
      const request = message(Buffer.from([0x0a, 1, 0x78]));
      const calls = Array.from({ length: 8 }, () =>
        session.request({ ...HEADERS, ':path': WATCH }),
      );
      const answers = calls.map(
        (call) =>
          new Promise<boolean>((resolve) => {
            call.on('data', () => resolve(true));
            call.on('end', () => resolve(false));
            call.end(request);
          }),
      );
      const taken = (await Promise.all(answers)).filter(Boolean).length;
      await Promise.all(
        calls.map((call) => {
          const over = new Promise((resolve) => call.once('close', resolve));
          call.close();
          return over;
        }),
      );
      return taken;
    };
    await expect.poll(free).toBe(8);
  });

  it('keeps nothing for a watch that never reads but what is newest', async () => {
    let sent = 0;
    const big = 'x'.repeat(100_000);
    const { agent } = await agentWith({
      migrations: {
        async *watch(_id, { signal }) {
          while (!signal.aborted) {
            sent++;
            yield { ...fakeMigration(), domainName: big };
          }
        },
      },
    });
    const socket = await tls(agent);
    // With a window of one byte, and never a WINDOW_UPDATE.
    const session = connectHttp2('https://drover', {
      createConnection: () => socket,
      settings: { initialWindowSize: 1 },
    });
    session.on('error', () => {});
    ends.push(() => session.destroy());
    const beforeBytes = process.memoryUsage().rss;
    const watches = Array.from({ length: 100 }, () =>
      session.request({ ...HEADERS, ':path': WATCH }),
    );
    for (const watch of watches) {
      watch.on('error', () => {});
      watch.pause();
      watch.end(message(Buffer.from([0x0a, 1, 0x78])));
    }
    await patientlyCall(agent);
    await expect.poll(() => sent).toBeGreaterThanOrEqual(100);
    let before: number;
    do {
      before = sent;
      await patientlyCall(agent);
    } while (sent > before);
    // What gRPC keeps ready for one stream is counted in messages.
    expect(sent).toBeLessThanOrEqual(100 * 18);
    expect(process.memoryUsage().rss - beforeBytes).toBeLessThan(300 * 1024 * 1024);
  });

  it('refuses a message above 1 MiB without taking it, also one that only unpacks to that', async () => {
    const { agent } = await agentWith({});
    const session = await http2(agent);
    const head = Buffer.alloc(5);
    head.writeUInt32BE(MESSAGE_LIMIT_BYTES + 1, 1);
    const large = await finished(session, GET_HOST, head);
    expect(large['grpc-status']).toBe(String(status.RESOURCE_EXHAUSTED));
    const { gzipSync } = await import('node:zlib');
    const packed = message(gzipSync(Buffer.alloc(MESSAGE_LIMIT_BYTES * 20)));
    packed[0] = 1;
    const bomb = await finished(session, GET_HOST, packed, { 'grpc-encoding': 'gzip' });
    expect(bomb['grpc-status']).toBe(String(status.RESOURCE_EXHAUSTED));
  });

  it('tells callers how many streams of one connection it takes', async () => {
    const { agent } = await agentWith({});
    const session = await http2(agent);
    await finished(session, GET_HOST, message(Buffer.alloc(0)));
    expect(session.remoteSettings.maxConcurrentStreams).toBe(STREAMS_PER_CONNECTION);
  });

  it('puts on record who is refused by the handshake, and with which certificate', async () => {
    await using strangers = await makeTestCertificates();
    const foreign = await strangers.operator('mallory');
    const { agent, events } = await agentWith({});
    const client = new Client(
      agent.address,
      credentials.createSsl(
        readFileSync(operator.ca),
        readFileSync(foreign.key),
        readFileSync(foreign.certificate),
      ),
      { 'grpc.ssl_target_name_override': 'drover', 'grpc.enable_retries': 0 },
    );
    ends.push(() => client.close());
    const asIs = (bytes: Buffer) => bytes;
    await new Promise<void>((resolve) => {
      const options = { deadline: Date.now() + 3_000 };
      client.makeUnaryRequest(GET_HOST, asIs, asIs, Buffer.alloc(0), new Metadata(), options, () =>
        resolve(),
      );
    });
    expect(events[0]).toMatchObject({
      caller: '127.0.0.1',
      action: 'CONNECT',
      decision: 'DENIED',
      reason: 'TLS_PEER_REJECTED',
    });
    expect(events[0]?.message).toMatch(/SELF_SIGNED|UNABLE_TO|signature/i);
  });
});

const fakeMigration = () => ({
  migrationId: 'x',
  domainUuid: 'u',
  domainName: 'web',
  sourceHost: 'host-a',
  destinationHost: 'host-b',
  state: 'RUNNING' as const,
  phase: undefined,
  runningOn: 'SOURCE' as const,
  cancellable: true,
  revision: 1,
  createTime: new Date(),
  endTime: undefined,
  phaseTimes: [],
  disks: [],
  ram: undefined,
  summary: undefined,
  failure: undefined,
  transport: undefined,
  transportReason: '',
});

async function* watchForever(_id: string, { signal }: { signal: AbortSignal }) {
  yield fakeMigration();
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
}

/** One message as gRPC frames it. */
function message(bytes: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.byteLength, 1);
  return Buffer.concat([head, bytes]);
}

/** Calls, sends the bytes without ending the request where they are not whole, and waits for the end. */
function finished(
  session: ClientHttp2Session,
  path: string,
  bytes: Buffer | undefined,
  headers: Record<string, string> = {},
): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const call = session.request({ ...HEADERS, ...headers, ':path': path });
    let answer: Record<string, unknown> = {};
    call.on('response', (got) => (answer = { ...answer, ...got }));
    call.on('trailers', (got) => (answer = { ...answer, ...got }));
    call.on('error', reject);
    call.on('end', () => resolve(answer));
    call.resume();
    const whole = bytes && bytes.byteLength >= 5 && bytes.readUInt32BE(1) === bytes.byteLength - 5;
    if (whole) call.end(bytes);
    else if (bytes) call.write(bytes);
  });
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) resolve();
    socket.once('close', () => resolve());
    socket.resume();
  });
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (!socket.connecting) resolve();
    socket.once('connect', () => resolve());
  });
}

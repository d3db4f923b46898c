import { readFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { type Client, Metadata, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openAuthority } from '../../src/pki/signing.js';
import type { Role } from '../../src/rpc/identity.js';
import { CERTIFICATE_KEY } from '../../src/rpc/interceptors.js';
import {
  type CertificateFiles,
  identityUri,
  type LeafRequest,
  makeLeaf,
  makeTestCertificates,
  writePair,
} from '../support/certificates.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { Tally } from '../support/hostile.js';
import { callRaw, METHODS, rawClient } from '../support/raw-grpc.js';
import { callFields, FLAGS, FRAMES, fields, frame, PREFACE, tlsTo } from '../support/raw-http2.js';

/*
 * Callers with the wrong papers, and with the right papers for something else, at a whole agent
 * that has a guest to lose. What one caller may take of an agent is in hostile-flood.test.ts.
 */

const tally = new Tally('a caller with the wrong papers');
let hosts: FakeFleet;
let address: string;

beforeAll(async () => {
  hosts = await FakeFleet.start(['alpha']);
  ({ address } = hosts.host('alpha').config.listen);
  await hosts.run('alpha', 'web');
});
afterAll(async () => {
  tally.finish();
  await hosts?.[Symbol.asyncDispose]();
});

/** Calls every method there is, and says with what each was answered. */
async function callEverything(what: string, client: Client, metadata = new Metadata()) {
  const codes = await Promise.all(
    Object.entries(METHODS).map(async ([path, kind]) => {
      const answer = await callRaw(client, path, kind, { sends: true, metadata });
      const refused = answer.code !== status.OK && answer.messages === 0;
      tally.count(`${what}: ${path}`, refused ? answer.details : undefined);
      return answer.code;
    }),
  );
  client.close();
  return [...new Set(codes)];
}

async function expectGuestRuns(): Promise<void> {
  const [guest] = hosts.launcher('alpha').alive;
  if (!guest) throw new Error('The guest has gone.');
  await hosts.writes(guest, 1);
}

describe('a certificate that TLS refuses', () => {
  const certificates: Record<string, () => Promise<CertificateFiles>> = {
    'of another CA': async () => {
      await using other = await makeTestCertificates();
      const files = await other.operator('alice');
      const { directory } = hosts.fleet.certificates;
      const pair = {
        certificate: readFileSync(files.certificate, 'utf8'),
        key: readFileSync(files.key, 'utf8'),
      };
      return await writePair(directory, 'other', pair);
    },
    'that has expired': () => leaf('expired', { days: -1 }),
    'that is not valid yet': () =>
      leaf('early', { notBefore: new Date(Date.now() + 86_400_000), days: 30 }),
    'that is for servers only': () => leaf('server', { usages: ['server'] }),
  };

  it.each(Object.keys(certificates))('opens nothing: one %s', async (what) => {
    const files = await certificates[what]?.();
    if (!files) throw new Error('It is not made.');
    expect(await callEverything(what, rawClient(address, files))).toEqual([status.UNAVAILABLE]);
    await expectGuestRuns();
  });

  it('opens nothing: none at all', async () => {
    const { ca } = await hosts.fleet.certificates.operator('alice');
    expect(await callEverything('none', rawClient(address, { ca }))).toEqual([status.UNAVAILABLE]);
  });

  it('opens nothing: one that a leaf has signed', async () => {
    const { certificates } = hosts.fleet;
    const issuer = await certificates.operator('issuer');
    const pem = {
      certificate: readFileSync(issuer.certificate, 'utf8'),
      key: readFileSync(issuer.key, 'utf8'),
    };
    const pair = await makeLeaf(await openAuthority(pem), {
      commonName: 'x',
      uris: [identityUri('operator', 'mallory')],
    });
    const chain = { ...pair, certificate: `${pair.certificate}${pem.certificate}` };
    const files = await writePair(certificates.directory, 'grandchild', chain);
    const codes = await callEverything('signed by a leaf', rawClient(address, files));
    expect(codes).toEqual([status.UNAVAILABLE]);
  });
});

describe('a certificate whose time is over while its connection stands', () => {
  it('is good for no further call, except for those that end a handover', async () => {
    const client = rawClient(address, await leaf('short', { days: 1 }));
    const peer = rawClient(
      address,
      await leaf('short-host', { days: 1, uris: [identityUri('host', 'mallory')] }),
    );
    const getHost = '/drover.v1.HostService/GetHost';
    const abort = '/drover.v1.PeerService/Abort';
    const message = Buffer.from([0x0a, 0]);
    for (const one of [client, peer]) {
      const before = await callRaw(one, getHost, 'unary', { sends: true });
      expect(before.code).toBe(status.OK);
    }
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 2 * 86_400_000 });
    try {
      expect(await callEverything('expired', client)).toEqual([status.PERMISSION_DENIED]);
      const denied = await callRaw(peer, getHost, 'unary', { sends: true });
      expect(denied).toMatchObject({
        code: status.PERMISSION_DENIED,
        details: expect.stringContaining('has expired'),
      });
      const handover = await callRaw(peer, abort, 'unary', { sends: true, message });
      // It was let through to be told that it speaks no version of the protocol.
      expect(handover.code).toBe(status.FAILED_PRECONDITION);
    } finally {
      vi.useRealTimers();
      peer.close();
    }
  });
});

describe('a certificate of the CA that names nobody here', () => {
  const uris: Record<string, readonly string[]> = {
    'no URI': [],
    'two URIs': [identityUri('observer', 'x'), identityUri('operator', 'x')],
    'the same URI twice': [identityUri('operator', 'x'), identityUri('operator', 'x')],
    'another trust domain': [identityUri('operator', 'x', 'elsewhere.test')],
    'a trust domain that begins with ours': [identityUri('operator', 'x', 'drover.test.evil')],
    'a role that nobody has': ['spiffe://drover.test/root/x'],
    'a role in capitals': ['spiffe://drover.test/OPERATOR/x'],
    'the scheme in capitals': ['SPIFFE://drover.test/operator/x'],
    'a name with a step up': ['spiffe://drover.test/observer/../operator/x'],
    'a name in code': ['spiffe://drover.test/%6fperator/x'],
    'more than a name': ['spiffe://drover.test/operator/x/y'],
    'no name': ['spiffe://drover.test/operator/'],
    'a question behind it': ['spiffe://drover.test/operator/x?y'],
    'a user before it': ['spiffe://x@drover.test/operator/x'],
    'a port behind it': ['spiffe://drover.test:443/operator/x'],
    'another one behind a comma': ['urn:x, URI:spiffe://drover.test/operator/x'],
    'a name of a kilobyte': [`spiffe://drover.test/operator/${'x'.repeat(1024)}`],
  };

  it.each(Object.entries(uris))('is denied everything: %s', async (what, names) => {
    const files = await leaf(what.replaceAll(' ', '-'), { uris: names });
    expect(await callEverything(what, rawClient(address, files))).toEqual([
      status.PERMISSION_DENIED,
    ]);
    await expectGuestRuns();
  });
});

describe('a certificate that is good for something else', () => {
  const web = Buffer.concat([Buffer.from([0x0a, 3]), Buffer.from('web')]);
  /** What changes something: a request that would be carried out, and the roles that may not. */
  const mutations: readonly [string, readonly Role[]][] = [
    ['/drover.v1.DomainService/StopDomain', ['host', 'scheduler', 'observer']],
    ['/drover.v1.DomainService/StartDomain', ['host', 'scheduler', 'observer']],
    ['/drover.v1.DomainService/DeleteDomain', ['host', 'scheduler', 'observer']],
    ['/drover.v1.DomainService/CreateDomain', ['host', 'scheduler', 'observer']],
    ['/drover.v1.MigrationService/StartMigration', ['host', 'observer']],
    ['/drover.v1.MigrationService/CancelMigration', ['host', 'observer']],
    ['/drover.v1.MigrationService/ResolveMigration', ['host', 'observer']],
    ['/drover.v1.MigrationService/ListMigrations', ['host']],
    ['/drover.v1.DomainService/ListDomains', ['host']],
    ['/drover.v1.HostService/ListAuditEvents', ['host', 'scheduler']],
    ...Object.keys(METHODS)
      .filter((path) => path.includes('.PeerService/'))
      .map((path): [string, readonly Role[]] => [path, ['operator', 'scheduler', 'observer']]),
  ];
  /** Where the first field is no name but a message. */
  const nested = Buffer.concat([Buffer.from([0x0a, web.length]), web]);

  it('changes nothing that its role may not change', async () => {
    for (const [path, roles] of mutations) {
      for (const role of roles) {
        const files = await hosts.fleet.certificates.named(role, 'mallory');
        const client = rawClient(address, files);
        const kind = METHODS[path] ?? 'unary';
        const message = path.endsWith('CreateDomain')
          ? nested
          : path.includes('.PeerService/')
            ? Buffer.from([0x0a, 0])
            : web;
        const answer = await callRaw(client, path, kind, { sends: true, message });
        client.close();
        const refused = answer.code === status.PERMISSION_DENIED && answer.messages === 0;
        tally.count(`${path} as ${role}`, refused ? answer.details : undefined);
        expect(answer.code, `${path} as ${role}`).toBe(status.PERMISSION_DENIED);
      }
    }
    await expectGuestRuns();
  });

  it('becomes no other one by the metadata that are sent with it', async () => {
    const operator = await hosts.fleet.certificates.operator('alice');
    const der = Buffer.from(
      readFileSync(operator.certificate, 'utf8').replaceAll(/-----[^-]+-----|\s/g, ''),
      'base64',
    );
    const metadata = new Metadata();
    for (let i = 0; i < 3; i++) metadata.add(CERTIFICATE_KEY, der);
    for (const name of ['x-drover-caller', 'x-forwarded-client-cert', 'authorization']) {
      metadata.add(name, 'operator/alice');
    }
    const observer = await hosts.fleet.certificates.named('observer', 'eve');
    const client = rawClient(address, observer);
    const path = '/drover.v1.DomainService/StopDomain';
    const answer = await callRaw(client, path, 'unary', { sends: true, message: web, metadata });
    client.close();
    tally.count('forged metadata', answer.code === status.OK ? undefined : answer.details);
    expect(answer.code).toBe(status.PERMISSION_DENIED);
    const { events } = await hosts.host('alpha').client.hosts.listAuditEvents({
      action: 'StopDomain',
      caller: 'observer/eve',
    });
    expect(events[0]).toMatchObject({ decision: 'DECISION_DENIED', reason: 'PERMISSION_DENIED' });
    await expectGuestRuns();
  });
});

describe('a connection that is no TLS 1.3', () => {
  const settings = frame(FRAMES.settings, 0, 0);
  const head = fields(callFields('/drover.v1.HostService/GetHost'));
  const call = Buffer.concat([
    PREFACE,
    settings,
    frame(FRAMES.headers, FLAGS.endHeaders | FLAGS.endStream, 1, head),
  ]);

  it.each([
    ['HTTP/2 in plain text', call],
    ['HTTP/1.1 in plain text', Buffer.from('GET / HTTP/1.1\r\nHost: drover\r\n\r\n')],
    ['an upgrade', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n')],
    ['bytes of no meaning', Buffer.alloc(100_000, 0xa5)],
  ])('gets no byte of an answer: %s', async (what, words) => {
    const heard: Buffer[] = [];
    const socket = connectTcp({ host: '127.0.0.1', port: Number(address.split(':')[1]) });
    socket.on('error', () => undefined);
    socket.on('data', (data) => heard.push(data));
    socket.write(words);
    await new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const answer = Buffer.concat(heard);
    // An alert of TLS is seven bytes and says nothing.
    tally.count(what, answer.length <= 7 ? 'closed' : undefined);
    expect(answer.length).toBeLessThanOrEqual(7);
  });

  it.each<[string, ConnectionOptions]>([
    ['TLS 1.2', { maxVersion: 'TLSv1.2' }],
    ['TLS 1.0', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }],
  ])('is not made: %s', async (what, options) => {
    const files = await hosts.fleet.certificates.operator('alice');
    const socket = await tlsTo(address, files, options);
    const version = socket.getProtocol();
    tally.count(what, socket.destroyed ? 'closed' : undefined);
    expect(socket.destroyed, `${version}`).toBe(true);
  });

  it('answers nothing to HTTP/1.1 within TLS, and no service to a path that is none', async () => {
    const files = await hosts.fleet.certificates.operator('alice');
    const old = await tlsTo(address, files, { ALPNProtocols: ['http/1.1'] });
    tally.count('HTTP/1.1', old.alpnProtocol === 'http/1.1' ? undefined : 'no');
    old.destroy();
    const socket = await tlsTo(address, files);
    const session = connectHttp2('https://drover', { createConnection: () => socket });
    session.on('error', () => undefined);
    for (const path of ['/', '/metrics', '/../etc/passwd', '/drover.v1.PeerService', '*']) {
      for (const method of ['GET', 'POST', 'OPTIONS', 'CONNECT', 'TRACE']) {
        const answered = await new Promise<string>((resolve) => {
          const request = session.request(
            method === 'CONNECT'
              ? { ':method': method, ':authority': 'x' }
              : { ':method': method, ':path': path, 'content-type': 'application/grpc' },
          );
          request.on('response', (headers) =>
            resolve(`${headers[':status']} ${headers['grpc-status'] ?? ''}`),
          );
          request.on('error', ({ message }) => resolve(message));
          request.on('close', () => resolve('closed'));
          request.end();
        });
        tally.count(`${method} ${path}`, answered === '200 0' ? undefined : answered);
        expect(answered, `${method} ${path}`).not.toBe('200 0');
      }
    }
    session.destroy();
    await expectGuestRuns();
  });
});

function leaf(fileName: string, request: Partial<LeafRequest>): Promise<CertificateFiles> {
  const uris = [identityUri('operator', 'mallory')];
  return hosts.fleet.certificates.leaf(fileName, { commonName: 'x', uris, ...request });
}

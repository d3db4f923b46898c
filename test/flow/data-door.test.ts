import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FRAME, frame, writeHeader } from '../../src/channel/frames.js';
import type { StreamPlace } from '../../src/channel/types.js';
import { LocalCarrier } from '../../src/rpc/carrier.js';
import { UNADMITTED, UNADMITTED_PER_ADDRESS } from '../../src/rpc/limits.js';
import {
  type CurrentTls,
  readTlsFiles,
  type TlsFiles,
  type TlsMaterial,
} from '../../src/rpc/tls-material.js';
import { CarrierStage, receiveText } from '../support/carriers.js';
import { makeTestCertificates } from '../support/certificates.js';

const MIB = 1024 * 1024;
const TICKET_LIMIT_MS = 400;

let stage: CarrierStage;
let sockets: Socket[];
beforeEach(async () => {
  sockets = [];
  await openStage(TICKET_LIMIT_MS);
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await stage?.[Symbol.asyncDispose]();
});

async function openStage(ticketLimitMs: number): Promise<void> {
  stage = await CarrierStage.open((settings) => new LocalCarrier({ ...settings, ticketLimitMs }));
}

/** Denials of the door, newest last. */
const denials = () => stage.audit.filter(({ decision }) => decision === 'DENIED');

function keep<Some extends Socket>(socket: Some): Some {
  socket.on('error', () => undefined);
  sockets.push(socket);
  return socket;
}

const closed = (socket: Socket) =>
  new Promise<void>((resolve) =>
    socket.closed ? resolve() : socket.once('close', () => resolve()),
  );

function plain({ port }: StreamPlace, localAddress = '127.0.0.1'): Socket {
  return keep(connectTcp({ host: '127.0.0.1', port, localAddress }));
}

/** TLS with these files, of any version. */
function secure({ port }: StreamPlace, files?: Partial<TlsFiles>, options: object = {}): TLSSocket {
  const read = (path: string | undefined) => (path === undefined ? undefined : readFileSync(path));
  return keep(
    connectTls({
      host: '127.0.0.1',
      port,
      rejectUnauthorized: false,
      ca: read(files?.ca),
      cert: read(files?.certificate),
      key: read(files?.key),
      ALPNProtocols: ['drover-stream'],
      ...options,
    }),
  );
}

/** All that comes until the connection is closed. */
async function answerOf(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (bytes) => chunks.push(bytes));
  await closed(socket);
  return Buffer.concat(chunks);
}

/** What a door says that refuses. */
const refusal = (message: string) => frame(FRAME.broken, `PERMISSION_DENIED ${message}`);

/** A place that is waited at, and the QEMU there. */
async function place(host = 'host-a') {
  const arrival = stage.path();
  const { accepted } = await stage.listen(arrival);
  return { accepted, ...(await stage.expect(arrival, host)) };
}

describe('the data door', () => {
  it('refuses a wrong ticket, and the right one goes on being good', async () => {
    const files = await stage.certificates.host('host-a');
    const { place: at, accepted } = await place();
    const wrong = secure(at, files);
    wrong.write(`${randomBytes(32).toString('base64url')}\n`);
    expect(await answerOf(wrong)).toEqual(refusal('This ticket opens nothing, or nothing more.'));
    expect(denials()).toMatchObject([
      { caller: 'host/host-a', action: 'STREAM', reason: 'PERMISSION_DENIED', subject: '' },
    ]);
    expect(JSON.stringify(stage.audit)).not.toContain(at.ticket);
    const right = secure(at, files);
    right.write(`${at.ticket}\n`);
    await new Promise((resolve) => right.once('data', resolve));
    await accepted;
    expect(stage.audit.at(-1)).toMatchObject({ caller: 'host/host-a', decision: 'ALLOWED' });
  });

  it('refuses a ticket in the hands of another host, and keeps it for its own', async () => {
    const { place: at, accepted } = await place();
    const other = secure(at, await stage.certificates.host('host-c'));
    other.write(`${at.ticket}\n`);
    expect(await answerOf(other)).toEqual(refusal('This ticket is not for host-c.'));
    const { signal } = new AbortController();
    const source = await stage.source.carry(stage.path(), at, { signal });
    await accepted;
    source.reset(new Error('over'));
  });

  it.each(['scheduler', 'operator', 'observer'] as const)(
    'refuses the certificate of the %s, whatever its name is',
    async (role) => {
      const { place: at } = await place();
      const socket = secure(at, await stage.certificates.named(role, 'host-a'));
      socket.write(`${at.ticket}\n`);
      expect(await answerOf(socket)).toEqual(refusal('Streams are for hosts.'));
      expect(denials()).toMatchObject([{ caller: `${role}/host-a`, action: 'STREAM' }]);
    },
  );

  it('refuses a certificate without exactly one name, and one of another trust domain', async () => {
    const { place: at } = await place();
    const uri = 'spiffe://drover.test/host/host-a';
    for (const uris of [[], [uri, uri], ['spiffe://other.test/host/host-a']]) {
      const files = await stage.certificates.leaf(`odd-${uris.length}-${uris[0]?.length}`, {
        commonName: 'host-a',
        uris,
      });
      const socket = secure(at, files);
      socket.write(`${at.ticket}\n`);
      expect(String(await answerOf(socket))).toContain('PERMISSION_DENIED');
    }
    expect(denials()).toHaveLength(3);
  });

  it('takes no connection without a certificate of the CA, none of TLS 1.2 and no plain text', async () => {
    const { place: at } = await place();
    await using strangers = await makeTestCertificates();
    const files = await stage.certificates.host('host-a');
    const expired = await stage.certificates.leaf('expired', {
      commonName: 'host-a',
      uris: ['spiffe://drover.test/host/host-a'],
      days: -1,
    });
    const attempts = [
      secure(at),
      secure(at, await strangers.host('host-a')),
      secure(at, expired),
      secure(at, files, { maxVersion: 'TLSv1.2' }),
      secure(at, files, { ALPNProtocols: ['h2'] }),
      plain(at),
    ];
    for (const socket of attempts) {
      socket.write(`${at.ticket}\n`);
      expect(String(await answerOf(socket))).not.toContain('PERMISSION_DENIED');
    }
    expect(denials().map(({ action, reason }) => `${action} ${reason}`)).toEqual(
      attempts.map(() => 'CONNECT TLS_PEER_REJECTED'),
    );
    expect(denials().every(({ caller }) => caller === '127.0.0.1')).toBe(true);
  });

  it('closes connections that show no whole ticket in time', async () => {
    const files = await stage.certificates.host('host-a');
    const { place: at } = await place();
    const silent = plain(at);
    const halfway = secure(at, files);
    halfway.write(at.ticket);
    const drip = secure(at, files);
    const dripping = setInterval(() => drip.write('x'), 50);
    await Promise.all([silent, halfway, drip].map(closed));
    clearInterval(dripping);
    expect(denials().map(({ reason }) => reason)).toEqual(Array(3).fill('LIMIT_REACHED'));
  });

  it('refuses a line that is too long to be a ticket at once', async () => {
    const { place: at } = await place();
    const socket = secure(at, await stage.certificates.host('host-a'));
    socket.write('x'.repeat(64));
    expect(await answerOf(socket)).toEqual(refusal('A stream begins with its ticket.'));
  });

  it('lets few wait at once, fewer of one address, and the others in when those have gone', async () => {
    await stage[Symbol.asyncDispose]();
    await openStage(4_000);
    const { place: at, accepted } = await place();
    const crowd = [];
    for (let one = 0; one < UNADMITTED_PER_ADDRESS + 4; one++) {
      crowd.push(plain(at, '127.0.0.2'));
    }
    for (let one = 0; one < UNADMITTED; one++) crowd.push(plain(at, `127.0.0.${10 + one}`));
    await Promise.all(crowd.map(closed));
    const messages = denials().map(({ message }) => message);
    const full = messages.filter((message) => message.includes('wait at the data door'));
    expect(full.filter((message) => message.includes('of this address'))).toHaveLength(4);
    expect(full).toHaveLength(crowd.length - UNADMITTED);
    const { signal } = new AbortController();
    const source = await stage.source.carry(stage.path(), at, { signal });
    await accepted;
    source.reset(new Error('over'));
  });

  it('takes no memory with bytes that never end while QEMU does not read', async () => {
    const { place: at, accepted, carriage } = await place();
    const socket = secure(at, await stage.certificates.host('host-a'));
    socket.write(`${at.ticket}\n`);
    await new Promise((resolve) => socket.once('data', resolve));
    (await accepted).pause();
    const before = process.memoryUsage.rss();
    const block = Buffer.alloc(256 * 1024);
    writeHeader(block, FRAME.data, block.length - 4);
    const writtenBytes = await writeUntilStalled(socket, () => block);
    expect(writtenBytes).toBeLessThan(32 * MIB);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 * MIB);
    carriage.reset(new Error('over'));
  });

  it('loses no byte of TLS records of one byte while QEMU does not read', async () => {
    const { place: at, accepted, carriage } = await place();
    const socket = secure(at, await stage.certificates.host('host-a'));
    socket.setNoDelay(true);
    socket.write(`${at.ticket}\n`);
    await new Promise((resolve) => socket.once('data', resolve));
    const qemu = await accepted;
    qemu.pause();
    // Each write is a record of its own; what they hold goes on counting.
    const head = Buffer.alloc(4);
    writeHeader(head, FRAME.data, 65_536);
    const bytes = Buffer.alloc(65_536);
    for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 31 + (at >> 8)) % 256;
    let sent = 0;
    const whole = Buffer.concat(Array(20).fill(Buffer.concat([head, bytes])));
    for (; sent < 150_000; sent++) socket.write(whole.subarray(sent, sent + 1));
    socket.write(whole.subarray(sent));
    socket.write(frame(FRAME.end));
    await new Promise((resolve) => setTimeout(resolve, 300));
    const received: Buffer[] = [];
    for await (const chunk of qemu.iterator({ destroyOnReturn: false })) received.push(chunk);
    expect(Buffer.concat(received).equals(Buffer.concat(Array(20).fill(bytes)))).toBe(true);
    carriage.reset(new Error('over'));
  });

  it('uses new certificates for new connections, and lets streams that stand go on', async () => {
    await using next = await makeTestCertificates();
    const first = {
      source: readTlsFiles(await stage.certificates.host('host-a')),
      destination: readTlsFiles(await stage.certificates.host('host-b')),
    };
    const tls = { source: new Told(first.source), destination: new Told(first.destination) };
    await stage[Symbol.asyncDispose]();
    stage = await CarrierStage.open(
      (settings, host) =>
        new LocalCarrier({ ...settings, tls: host === 'host-a' ? tls.source : tls.destination }),
    );
    const before = await stage.way();
    tls.destination.tell(readTlsFiles(await next.host('host-b')));
    const { place: at } = await place();
    const { signal } = new AbortController();
    const carry = () => stage.source.carry(stage.path(), at, { signal });
    await expect(carry()).rejects.toMatchObject({ reason: 'TLS_PEER_REJECTED' });
    tls.source.tell(readTlsFiles(await next.host('host-a')));
    (await carry()).reset(new Error('over'));
    before.sourceQemu.end('still here');
    expect(await receiveText(before.destinationQemu)).toBe('still here');
    before.destinationQemu.end();
    before.sourceQemu.resume();
    await before.source.done;
  });
});

/** Certificates that change when the test says so. */
class Told implements CurrentTls {
  material: TlsMaterial;
  readonly #listeners = new Set<(material: TlsMaterial) => void>();

  constructor(material: TlsMaterial) {
    this.material = material;
  }

  onChange(listener: (material: TlsMaterial) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  tell(material: TlsMaterial): void {
    this.material = material;
    for (const listener of this.#listeners) listener(material);
  }
}

async function writeUntilStalled(socket: Socket, next: () => Buffer): Promise<number> {
  for (let writtenBytes = 0; ; ) {
    const piece = next();
    const isTaken = await new Promise<boolean>((resolve) => {
      const stalls = setTimeout(() => resolve(false), 700);
      socket.write(piece, () => {
        clearTimeout(stalls);
        resolve(true);
      });
    });
    if (!isTaken) return writtenBytes;
    writtenBytes += piece.length;
  }
}

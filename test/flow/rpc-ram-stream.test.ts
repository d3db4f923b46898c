import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ByteStream } from '../../src/channel/types.js';
import { MigrationError } from '../../src/migration/errors.js';
import type { PeerHandler } from '../../src/migration/peer.js';
import { Connection } from '../../src/rpc/connection.js';
import type { PeerClients } from '../../src/rpc/peer-directory.js';
import { peerDefinition, type RamMessage } from '../../src/rpc/ram-codec.js';
import { RAM_WINDOW_BYTES } from '../../src/rpc/settings.js';
import { deferred } from '../../src/util/deferred.js';
import { makeTestCertificates, type TestCertificates } from '../support/certificates.js';
import {
  type FakeAgent,
  patiently,
  peersOf,
  readAll,
  startFakeAgent,
} from '../support/fake-agent.js';

const MIB = 1024 * 1024;

describe('the stream of RAM', () => {
  let certificates: TestCertificates;
  let agent: FakeAgent;
  let peers: PeerClients;
  /** What the destination does with the next stream. */
  let handle: PeerHandler['streamRam'];

  beforeAll(async () => {
    certificates = await makeTestCertificates();
    agent = await startFakeAgent(await certificates.host('host-b'), {
      peer: { streamRam: (...given) => handle(...given) },
    });
    peers = peersOf('host-a', await certificates.host('host-a'), { 'host-b': agent.address });
  });
  afterAll(async () => {
    peers?.[Symbol.dispose]();
    await agent?.[Symbol.asyncDispose]();
    await certificates?.[Symbol.asyncDispose]();
  });
  const open = (ticket = 'the-ticket') => peers.calls('host-b').openRam(ticket, patiently());

  it('carries bytes both ways unchanged, and tells the handler ticket and caller', async () => {
    const there = randomBytes(3 * MIB + 17);
    const back = randomBytes(700_001);
    const seen = deferred<{ ticket: string; caller: string; received: Buffer }>();
    handle = async (ticket, caller, stream) => {
      const [received] = await Promise.all([readAll(stream), writeAll(stream, back)]);
      seen.resolve({ ticket, caller, received });
    };
    const stream = await open();
    const [received] = await Promise.all([readAll(stream), writeAll(stream, there)]);
    expect(digest(received)).toBe(digest(back));
    const { ticket, caller, received: arrived } = await seen.promise;
    expect([ticket, caller]).toEqual(['the-ticket', 'host-a']);
    expect(digest(arrived)).toBe(digest(there));
  });

  it('lets each half end on its own: the other one goes on', async () => {
    handle = async (_ticket, _caller, stream) => {
      await stream.write(Buffer.from('only a word'));
      await stream.end();
      // Our half has ended; everything of the other one still arrives after that.
      const received = await readAll(stream);
      expect(received.toString()).toBe('late');
    };
    const stream = await open();
    expect((await readAll(stream)).toString()).toBe('only a word');
    await stream.write(Buffer.from('late'));
    await stream.end();
    await expect(stream.write(Buffer.from('too late'))).rejects.toThrow(/after the end/);

    handle = async (_ticket, _caller, answering) => {
      const request = await readAll(answering);
      await answering.write(Buffer.from(`got ${request}`));
      await answering.end();
    };
    const asking = await open();
    await asking.write(Buffer.from('a question'));
    await asking.end();
    expect((await readAll(asking)).toString()).toBe('got a question');
  });

  it('resets the destination when the source resets', async () => {
    const arrived = deferred();
    const broken = deferred<unknown>();
    handle = async (_ticket, _caller, stream) => {
      try {
        for await (const _chunk of stream.incoming) arrived.resolve();
      } catch (error) {
        broken.resolve(error);
      }
      await expect(stream.write(Buffer.from('x'))).rejects.toThrow();
    };
    const stream = await open();
    await stream.write(Buffer.alloc(1000));
    await arrived.promise;
    stream.reset(new MigrationError('CANCELLED_BY', 'enough'));
    expect(await broken.promise).toMatchObject({ reason: 'PEER_LOST' });
    await expect(stream.write(Buffer.alloc(1))).rejects.toThrow('enough');
    await expect(readAll(stream)).rejects.toThrow('enough');
  });

  it('resets the source with its reason when the destination resets', async () => {
    const why = () => new MigrationError('DEST_QEMU_DIED', 'QEMU has gone.');
    handle = async (_ticket, _caller, stream) => stream.reset(why());
    const reading = await open();
    await expect(readAll(reading)).rejects.toMatchObject({
      reason: 'DEST_QEMU_DIED',
      message: 'QEMU has gone.',
    });
    handle = async () => {
      throw why();
    };
    const writing = await open();
    await expect(writeForEver(writing)).rejects.toMatchObject({ reason: 'DEST_QEMU_DIED' });
  });

  it('refuses a wrong ticket with the reason of the handler', async () => {
    handle = async () => {
      throw new MigrationError('PERMISSION_DENIED', 'This ticket opens nothing.');
    };
    await expect(readAll(await open('forged'))).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
      message: 'This ticket opens nothing.',
    });
  });

  it('resets both sides when a handler leaves the stream open', async () => {
    handle = async () => {};
    await expect(readAll(await open())).rejects.toMatchObject({ reason: 'INTERNAL' });
    handle = (_ticket, _caller, stream) => stream.end();
    await expect(writeForEver(await open())).rejects.toMatchObject({ reason: 'INTERNAL' });
  });

  it('takes a call that ends without the end of its half for a reset', async () => {
    const broken = deferred<unknown>();
    handle = async (_ticket, _caller, stream) => {
      await readAll(stream).catch(broken.resolve);
    };
    const connection = new Connection({
      address: agent.address,
      tls: await certificates.host('host-a'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    const answers = connection.client(peerDefinition, {}).streamRam(
      (async function* () {
        yield { type: 'ticket', ticket: 't' } as const;
        yield { type: 'data', data: Buffer.from('not all of it') } as const;
      })(),
    );
    await expect(
      (async () => {
        for await (const _message of answers);
      })(),
    ).rejects.toMatchObject({ reason: 'PEER_LOST' });
    expect(await broken.promise).toMatchObject({ reason: 'PEER_LOST' });
    connection.close();
  });

  it.each([
    ['no message at all', []],
    ['data instead of a ticket', [{ type: 'data', data: Buffer.from('x') }]],
    [
      'a second ticket',
      [
        { type: 'ticket', ticket: 't' },
        { type: 'ticket', ticket: 't' },
      ],
    ],
  ] as [string, RamMessage[]][])('refuses a stream of %s', async (_what, messages) => {
    handle = (_ticket, _caller, stream) => readAll(stream).then(() => {});
    const connection = new Connection({
      address: agent.address,
      tls: await certificates.host('host-a'),
      host: 'host-b',
      unreachable: 'PEER_UNREACHABLE',
    });
    const answers = connection.client(peerDefinition, {}).streamRam(
      (async function* () {
        yield* messages;
      })(),
    );
    await expect(
      (async () => {
        for await (const _message of answers);
      })(),
    ).rejects.toMatchObject({ reason: 'REQUEST_INVALID' });
    connection.close();
  });

  it('stops a source whose destination does not read, after bounded bytes', async () => {
    const release = deferred();
    const handled = deferred();
    let received = 0;
    handle = async (_ticket, _caller, stream) => {
      await release.promise;
      const ended = stream.end();
      for await (const chunk of stream.incoming) received += chunk.length;
      await ended;
      handled.resolve();
    };
    const stream = await open();
    const { accepted, stalled } = await writeUntilStalled(stream);
    // Our 16 messages on each side, the window, and the one chunk at each end.
    expect(accepted).toBeLessThanOrEqual(RAM_WINDOW_BYTES + 10 * MIB);
    // Without the wide window it would be 8 MiB.
    expect(accepted).toBeGreaterThan(RAM_WINDOW_BYTES + 4 * MIB);
    release.resolve();
    await stalled;
    await stream.end();
    await handled.promise;
    expect(received).toBe(accepted + 256 * 1024);
  });

  it('stops a destination whose source does not read, after bounded bytes', async () => {
    const result = deferred<number>();
    const release = deferred();
    handle = async (_ticket, _caller, stream) => {
      const { accepted, stalled } = await writeUntilStalled(stream);
      result.resolve(accepted);
      await Promise.all([release.promise, stalled]);
      await stream.end();
      await readAll(stream);
    };
    const stream = await open();
    expect(await result.promise).toBeLessThanOrEqual(RAM_WINDOW_BYTES + 10 * MIB);
    release.resolve();
    await stream.end();
    await readAll(stream);
  });

  it('ends a stream that is under way when the agent is stopped', async () => {
    const closing = await startFakeAgent(await certificates.host('host-c'), {
      peer: { streamRam: (_ticket, _caller, stream) => readAll(stream).then(() => {}) },
    });
    using others = peersOf('host-a', await certificates.host('host-a'), {
      'host-c': closing.address,
    });
    const stream = await others.calls('host-c').openRam('t', patiently());
    await stream.write(Buffer.alloc(10));
    const reading = readAll(stream);
    const outcome = expect(reading).rejects.toMatchObject({ reason: 'PEER_UNREACHABLE' });
    await closing.server.shutdown(50);
    await outcome;
    await closing[Symbol.asyncDispose]();
  });
});

async function writeAll(stream: ByteStream, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += 100_000) {
    await stream.write(bytes.subarray(at, at + 100_000));
  }
  await stream.end();
}

async function writeForEver(stream: ByteStream): Promise<never> {
  for (;;) await stream.write(Buffer.alloc(64 * 1024));
}

/** Writes chunks until one is not taken for half a second. `stalled` is the promise of that one. */
async function writeUntilStalled(stream: ByteStream) {
  const chunk = Buffer.alloc(256 * 1024);
  for (let accepted = 0; ; accepted += chunk.length) {
    const written = stream.write(chunk);
    let timer: NodeJS.Timeout | undefined;
    const stalls = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(true), 500);
    });
    const isStalled = await Promise.race([written.then(() => false), stalls]);
    clearTimeout(timer);
    if (isStalled) return { accepted, stalled: written };
  }
}

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

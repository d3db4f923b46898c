import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startRelay } from '../../../src/channel/relay.js';
import { type ByteStream, CHUNK_BYTES } from '../../../src/channel/types.js';
import { connectUnix, OneConnection } from '../../../src/channel/unix-socket.js';
import { byteStreamPair } from '../../support/byte-stream-pair.js';

const signal = AbortSignal.timeout(20_000);
let directory: string;
let sockets: Socket[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'drover-relay-'));
  sockets = [];
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await rm(directory, { recursive: true, force: true });
});

/** A connected pair of unix sockets: QEMU's end, and the one the relay gets. */
async function socketPair(): Promise<{ qemu: Socket; ours: Socket }> {
  await using door = await OneConnection.listen(join(directory, `s${sockets.length}.sock`));
  const qemu = await connectUnix(door.path, { signal });
  const ours = await door.accepted({ signal });
  sockets.push(qemu, ours);
  return { qemu, ours };
}

/** QEMU - relay - stream - relay - QEMU. */
async function chain() {
  const streams = byteStreamPair();
  const source = await socketPair();
  const destination = await socketPair();
  const left = startRelay(source.ours, streams.left);
  const right = startRelay(destination.ours, streams.right);
  return { streams, left, right, source: source.qemu, destination: destination.qemu };
}

async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const closed = (socket: Socket) =>
  socket.closed ? Promise.resolve() : new Promise((resolve) => socket.once('close', resolve));

test('64 MiB arrive unchanged in both directions at once, with little in memory', async () => {
  const { streams, left, right, source, destination } = await chain();
  const sizeBytes = 64 * 1024 * 1024;
  const pump = async (from: Socket, to: Socket) => {
    const block = randomBytes(1024 * 1024);
    const sent = createHash('sha256');
    const received = createHash('sha256');
    const writing = (async () => {
      for (let done = 0; done < sizeBytes; done += block.length) {
        sent.update(block);
        if (!from.write(block)) await new Promise((resolve) => from.once('drain', resolve));
      }
      from.end();
    })();
    for await (const chunk of to.iterator({ destroyOnReturn: false })) received.update(chunk);
    await writing;
    expect(received.digest('hex')).toBe(sent.digest('hex'));
  };
  await Promise.all([pump(source, destination), pump(destination, source)]);
  expect(await left.done).toEqual({ sentBytes: sizeBytes, receivedBytes: sizeBytes });
  expect(await right.done).toEqual({ sentBytes: sizeBytes, receivedBytes: sizeBytes });
  expect(streams.peakBytes).toBeLessThanOrEqual(2 * CHUNK_BYTES);
});

test('one half ends while the other goes on', async () => {
  const { left, right, source, destination } = await chain();
  source.end('the last word');
  expect((await readAll(destination)).toString()).toBe('the last word');
  destination.write('still here');
  destination.end();
  expect((await readAll(source)).toString()).toBe('still here');
  await Promise.all([left.done, right.done]);
  expect([left.endedFirst, right.endedFirst]).toEqual(['socket', 'stream']);
});

test('when QEMU closes its socket both ways, the QEMU at the other end sees the end', async () => {
  const { source, destination, left } = await chain();
  source.destroy();
  expect(await readAll(destination)).toHaveLength(0);
  destination.end();
  await left.done.catch(() => undefined);
});

test('a cut stream closes the sockets of both sides', async () => {
  const { streams, source, destination, left, right } = await chain();
  source.resume();
  destination.resume();
  const reason = new Error('The cable was pulled.');
  streams.cut(reason);
  await expect(left.done).rejects.toBe(reason);
  await expect(right.done).rejects.toBe(reason);
  const ended = [source, destination].map((socket) => {
    socket.end();
    return closed(socket);
  });
  await Promise.all(ended);
});

test('a broken socket resets the stream even while both directions wait for the stream', async () => {
  const { ours } = await socketPair();
  let reset: Error | undefined;
  const silent: ByteStream = {
    incoming: { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => undefined) }) },
    write: () => new Promise(() => undefined),
    end: async () => undefined,
    reset: (reason) => {
      reset ??= reason;
    },
  };
  startRelay(ours, silent);
  const reason = new Error('broken');
  const gone = new Promise((resolve) => ours.once('close', resolve));
  ours.destroy(reason);
  await gone;
  expect(reset).toBe(reason);
});

test('reset breaks both sides at once, and `done` tells why', async () => {
  const { left, right, source } = await chain();
  const reason = new Error('The migration was cancelled.');
  left.reset(reason);
  await expect(left.done).rejects.toBe(reason);
  await expect(right.done).rejects.toBe(reason);
  source.resume();
  source.end();
  await closed(source);
});

test('a stream that takes nothing stops QEMU after a bounded number of bytes', async () => {
  const { qemu, ours } = await socketPair();
  const taken: number[] = [];
  const stuck: ByteStream = {
    incoming: { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => undefined) }) },
    write: (chunk) => {
      taken.push(chunk.length);
      return new Promise(() => undefined);
    },
    end: async () => undefined,
    reset: () => undefined,
  };
  const relay = startRelay(ours, stuck);
  const block = Buffer.alloc(64 * 1024);
  let drained = 0;
  qemu.on('drain', () => {
    drained = qemu.bytesWritten - qemu.writableLength;
  });
  for (let sent = 0; sent < 8 * 1024 * 1024; sent += block.length) qemu.write(block);
  // The kernel's buffers fill up within some turns of the event loop; then nothing moves any more.
  let before = -1;
  while (before !== ours.bytesRead) {
    before = ours.bytesRead;
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(taken).toHaveLength(1);
  expect(drained).toBe(0);
  expect(ours.bytesRead).toBeLessThanOrEqual(3 * CHUNK_BYTES);
  relay.reset(new Error('done'));
});

test('what arrives while a chunk is on its way goes out as one chunk of at most 256 KiB', async () => {
  const { qemu, ours } = await socketPair();
  const sizes: number[] = [];
  let release: () => void = () => undefined;
  const slow: ByteStream = {
    incoming: { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => undefined) }) },
    write: (chunk) => {
      sizes.push(chunk.length);
      return new Promise((resolve) => {
        release = resolve;
      });
    },
    end: async () => undefined,
    reset: () => undefined,
  };
  const relay = startRelay(ours, slow);
  qemu.write('x');
  while (sizes.length < 1) await new Promise((resolve) => setImmediate(resolve));
  for (let index = 0; index < 100; index++) {
    await new Promise((resolve) => qemu.write(Buffer.alloc(1000), resolve));
  }
  while (ours.bytesRead < 100_001) await new Promise((resolve) => setImmediate(resolve));
  release();
  while (sizes.length < 2) await new Promise((resolve) => setImmediate(resolve));
  expect(sizes).toEqual([1, 100_000]);
  relay.reset(new Error('done'));
});

test('a door takes one connection only and its path is gone after that', async () => {
  const path = join(directory, 'door.sock');
  await using door = await OneConnection.listen(path);
  const first = await connectUnix(path, { signal });
  sockets.push(first, await door.accepted({ signal }));
  expect(existsSync(path)).toBe(false);
  await expect(connectUnix(path, { signal })).rejects.toThrow();
});

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FRAME, FrameReader, frame, writeHeader } from '../../../src/channel/frames.js';
import { SocketJoin } from '../../../src/channel/socket-join.js';
import { readInto } from '../../../src/channel/static-read.js';
import { connectUnix, OneConnection } from '../../../src/channel/unix-socket.js';
import { receiveHash, sendRandom } from '../../support/carriers.js';

const MIB = 1024 * 1024;
const signal = AbortSignal.timeout(60_000);
let directory: string;
let sockets: Socket[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'drover-join-'));
  sockets = [];
});
afterEach(async () => {
  vi.useRealTimers();
  for (const socket of sockets) socket.destroy();
  await rm(directory, { recursive: true, force: true });
});

/** A connected pair of unix sockets: the outer end, and ours. */
async function pair(): Promise<{ outer: Socket; ours: Socket }> {
  await using door = await OneConnection.listen(join(directory, `s${sockets.length}.sock`));
  const outer = await connectUnix(door.path, { signal });
  const ours = await door.accepted({ signal });
  sockets.push(outer, ours);
  return { outer, ours };
}

/** A join of which the test is both the QEMU and the other agent. */
async function joined() {
  const { outer: qemu, ours: socket } = await pair();
  const { outer: agent, ours: stream } = await pair();
  const one = new SocketJoin();
  one.start(stream);
  one.attach(socket);
  return { one, qemu, agent };
}

function dataFrame(data: Uint8Array): Buffer {
  const head = Buffer.alloc(4);
  writeHeader(head, FRAME.data, data.length);
  return Buffer.concat([head, data]);
}

/** Writes pieces, each when the one before has been taken. */
async function writeAll(socket: Socket, pieces: Iterable<Uint8Array>): Promise<void> {
  for (const piece of pieces) {
    if (!socket.write(piece)) await new Promise((resolve) => socket.once('drain', resolve));
  }
}

describe('a socket that is joined with a stream', () => {
  it('sends and receives the very bytes, in both directions at once', async () => {
    const [source, destination, stream] = [await pair(), await pair(), await pair()];
    const left = new SocketJoin();
    const right = new SocketJoin();
    left.start(stream.ours);
    right.start(stream.outer);
    left.attach(source.ours);
    right.attach(destination.ours);
    const hashes = await Promise.all([
      sendRandom(source.outer, 16 * MIB),
      receiveHash(destination.outer),
      sendRandom(destination.outer, 16 * MIB),
      receiveHash(source.outer),
    ]);
    expect(hashes[0]).toBe(hashes[1]);
    expect(hashes[2]).toBe(hashes[3]);
    const totals = { sentBytes: 16 * MIB, receivedBytes: 16 * MIB };
    expect(await Promise.all([left.done, right.done])).toEqual([totals, totals]);
  });

  it.each([
    ['of one byte', 40_000, 1],
    ['of 3 to 4000 bytes', 2_000, 4000],
    ['of up to 300 KiB', 60, 300 * 1024],
  ])('writes the data of frames %s without their headers', async (_what, count, most) => {
    const { one, qemu, agent } = await joined();
    const bytes = randomBytes(MIB);
    const parts: Buffer[] = [];
    const frames: Buffer[] = [];
    for (let turn = 0; turn < count; turn++) {
      const sizeBytes = most === 1 ? 1 : 3 + ((turn * 7919) % (most - 3));
      const part = bytes.subarray(turn % 1000, (turn % 1000) + sizeBytes);
      parts.push(part);
      frames.push(dataFrame(part));
      if (turn % 5 === 0) frames.push(frame(FRAME.alive));
    }
    const whole = Buffer.concat([...frames, frame(FRAME.end)]);
    // Cut in other places than the frames.
    const pieces = [];
    for (let at = 0; at < whole.length; at += 10_007) pieces.push(whole.subarray(at, at + 10_007));
    const [received] = await Promise.all([receiveBytes(qemu), writeAll(agent, pieces)]);
    expect(received.equals(Buffer.concat(parts))).toBe(true);
    agent.resume();
    qemu.end();
    expect(await one.done).toMatchObject({ receivedBytes: received.length });
  });

  it('loses nothing of what had come before it began', async () => {
    const { outer: qemu, ours: socket } = await pair();
    const { outer: agent, ours: stream } = await pair();
    const [early, late] = [randomBytes(300), randomBytes(5 * MIB)];
    agent.write(dataFrame(early));
    qemu.write(early);
    await Promise.all([stream, socket].map((one) => new Promise((r) => one.once('readable', r))));
    const one = new SocketJoin();
    one.start(stream);
    one.attach(socket);
    const whole = Buffer.concat([early, late]);
    const sent = receiveBytes(agent);
    qemu.end(late);
    agent.write(dataFrame(late));
    agent.end(frame(FRAME.end));
    expect((await receiveBytes(qemu)).equals(whole)).toBe(true);
    let said = Buffer.alloc(0);
    const reader = new FrameReader({
      data: (start, end) => {
        said = Buffer.concat([said, bytes.subarray(start, end)]);
      },
      end: () => undefined,
      ready: () => undefined,
      broken: () => undefined,
      invalid: () => undefined,
    });
    const bytes = await sent;
    reader.read(bytes, 0, bytes.length);
    expect(said.equals(whole)).toBe(true);
  });

  it('holds no more than it has room for while nobody takes it, and loses none of it', async () => {
    const { outer: agent, ours: stream } = await pair();
    const one = new SocketJoin();
    one.start(stream);
    const block = dataFrame(randomBytes(64 * 1024 - 4));
    let writtenBytes = 0;
    const isTaken = () =>
      new Promise<boolean>((resolve) => {
        const stalls = setTimeout(() => resolve(false), 300);
        agent.write(block, () => {
          clearTimeout(stalls);
          resolve(true);
        });
      });
    while (await isTaken()) writtenBytes += block.length;
    // The ring, and what lies in the kernel on the way to it.
    expect(writtenBytes).toBeLessThan(2 * MIB);
    const { outer: qemu, ours: socket } = await pair();
    one.attach(socket);
    agent.write(frame(FRAME.end));
    const received = await receiveBytes(qemu);
    expect(received.length).toBe((writtenBytes / block.length + 1) * (block.length - 4));
    one.reset(new Error('over'));
  });

  it.each([
    ['hangs up before the end of its half', () => Buffer.alloc(0), /was cut/],
    ['sends what is no frame', () => Buffer.from('GET / HTTP/1.1\r\n\r\n'), /not part of/],
    ['says twice that it is ready', () => frame(FRAME.ready), /not part of/],
    ['gives no reason that is known', () => frame(FRAME.broken, 'OOPS \u001b[1m no'), /OOPS \?/],
  ])('is broken when the other agent %s', async (_what, words, message) => {
    const { one, qemu, agent } = await joined();
    const gone = new Promise((resolve) => qemu.once('close', resolve));
    qemu.resume();
    qemu.once('end', () => qemu.end());
    agent.end(words());
    await expect(one.done).rejects.toMatchObject({
      reason: 'PEER_LOST',
      message: expect.stringMatching(message),
    });
    expect(one.endedFirst).toBe('stream');
    await gone;
  });

  it('knows how much the QEMU here had said when the other agent broke off', async () => {
    const { one, qemu, agent } = await joined();
    qemu.write('an answer');
    await new Promise((resolve) => agent.once('data', resolve));
    agent.destroy();
    await expect(one.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
    expect([one.endedFirst, one.answeredBytes]).toEqual(['stream', 'an answer'.length]);
  });

  it('tells that an end is known before it does anything because of it', async () => {
    const { outer: qemu, ours: socket } = await pair();
    const { outer: agent, ours: stream } = await pair();
    let destroyed: boolean | undefined;
    const one: SocketJoin = new SocketJoin({
      onEnded: () => {
        destroyed = socket.destroyed;
        expect(one.endedFirst).toBe('stream');
      },
    });
    one.start(stream);
    one.attach(socket);
    qemu.resume();
    agent.destroy();
    await expect(one.done).rejects.toThrow();
    expect(destroyed).toBe(false);
  });

  it('gives signs of life, and gives up on an agent that gives none', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    const { one, agent } = await joined();
    const sign = new Promise((resolve) => agent.once('data', resolve));
    vi.advanceTimersByTime(2_000);
    expect(await sign).toEqual(frame(FRAME.alive));
    agent.resume();
    vi.advanceTimersByTime(7_999);
    expect(one.over).toBe(false);
    vi.advanceTimersByTime(1);
    await expect(one.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
  });

  it('waits for an agent that gives signs of life only', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    const { one, agent } = await joined();
    agent.resume();
    for (let turn = 0; turn < 10; turn++) {
      agent.write(frame(FRAME.alive));
      const [, stream] = sockets.slice(-2);
      while ((stream?.bytesRead ?? 0) < 4 * (turn + 1)) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      vi.advanceTimersByTime(5_000);
    }
    expect(one.over).toBe(false);
    one.reset(new Error('over'));
  });
});

describe('reading into memory that is there already', () => {
  it.each([
    ['where Node can', true],
    ['in the way that always works', false],
  ])('loses no byte when it is stopped and resumed, %s', async (_how, canBeStatic) => {
    const { outer, ours } = await pair();
    // What nobody has read yet comes first.
    outer.write('early');
    await new Promise((resolve) => ours.once('readable', resolve));
    const memory = Buffer.alloc(70_000);
    const received: Buffer[] = [];
    const ended = new Promise((resolve) => ours.once('end', resolve));
    const intake = {
      room: () => memory,
      took: (sizeBytes: number) => {
        received.push(Buffer.from(memory.subarray(0, sizeBytes)));
        setImmediate(() => ours.resume());
        return false;
      },
    };
    readInto(ours, intake, canBeStatic);
    expect(ours.listenerCount('data')).toBe(canBeStatic ? 0 : 1);
    const bytes = randomBytes(3 * MIB);
    outer.end(bytes);
    await ended;
    expect(Buffer.concat(received).equals(Buffer.concat([Buffer.from('early'), bytes]))).toBe(true);
  });
});

async function receiveBytes(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk);
  return Buffer.concat(chunks);
}

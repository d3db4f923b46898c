import type { Socket } from 'node:net';
import type { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { LocalCarrier } from '../../src/rpc/carrier.js';
import { WorkerCarrier } from '../../src/rpc/worker-carrier.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { CarrierStage, receiveHash, receiveText, sendRandom } from '../support/carriers.js';

const MIB = 1024 * 1024;

const closed = (socket: Socket) =>
  socket.closed ? Promise.resolve() : new Promise((resolve) => socket.once('close', resolve));

describe.each([
  [
    'in this thread',
    (settings: ConstructorParameters<typeof LocalCarrier>[0]) => new LocalCarrier(settings),
  ],
  [
    'in a worker',
    (settings: ConstructorParameters<typeof LocalCarrier>[0]) => new WorkerCarrier(settings),
  ],
] as const)('a stream that is carried %s', (_where, make) => {
  let stage: CarrierStage;
  beforeAll(async () => {
    stage = await CarrierStage.open(make);
  });
  afterAll(() => stage?.[Symbol.asyncDispose]());

  it('arrives unchanged in both directions at once', async () => {
    const way = await stage.way();
    const sizeBytes = 24 * MIB + 17;
    const [there, back, arrived, returned] = await Promise.all([
      sendRandom(way.sourceQemu, sizeBytes),
      sendRandom(way.destinationQemu, sizeBytes),
      receiveHash(way.destinationQemu),
      receiveHash(way.sourceQemu),
    ]);
    expect(arrived).toBe(there);
    expect(returned).toBe(back);
    const totals = { sentBytes: sizeBytes, receivedBytes: sizeBytes };
    expect(await way.source.done).toEqual(totals);
    expect(await way.destination.done).toEqual(totals);
    expect(way.source.carriedBytes).toBe(2 * sizeBytes);
  });

  it('lets one half end while the other goes on, and knows who ended first', async () => {
    const { source, destination, sourceQemu, destinationQemu } = await stage.way();
    sourceQemu.end('the last word');
    expect(await receiveText(destinationQemu)).toBe('the last word');
    destinationQemu.write('still here');
    destinationQemu.end();
    expect(await receiveText(sourceQemu)).toBe('still here');
    await Promise.all([source.done, destination.done]);
    expect([source.endedFirst, destination.endedFirst]).toEqual(['socket', 'stream']);
    expect([source.answeredBytes, destination.answeredBytes]).toEqual(['the last word'.length, 0]);
  });

  it('passes on each byte at once', async () => {
    const { source, sourceQemu, destinationQemu } = await stage.way();
    destinationQemu.on('data', (bytes) => destinationQemu.write(bytes));
    for (let turn = 0; turn < 50; turn++) {
      const answered = new Promise((resolve) => sourceQemu.once('data', resolve));
      sourceQemu.write(String(turn));
      expect(String(await answered)).toBe(String(turn));
    }
    source.reset(new Error('enough'));
  });

  it('breaks at both ends when a QEMU is gone to which bytes are on their way', async () => {
    const { source, destination, sourceQemu, destinationQemu } = await stage.way();
    destinationQemu.resume();
    sourceQemu.destroy();
    // The end of a half is no more than that, until somebody wants to be heard.
    await new Promise((resolve) => destinationQemu.once('end', resolve));
    destinationQemu.write('Are you there?');
    await expect(source.done).rejects.toMatchObject({ code: 'EPIPE' });
    await expect(destination.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
    expect([source.endedFirst, destination.endedFirst]).toEqual(['socket', 'stream']);
  });

  it('is reset with the reason that was given, and tells it to the other agent', async () => {
    const { source, destination, sourceQemu, destinationQemu } = await stage.way();
    const ends = [closed(sourceQemu), closed(destinationQemu)];
    for (const socket of [sourceQemu, destinationQemu]) {
      socket.resume();
      socket.once('end', () => socket.end());
    }
    const reason = new ReasonedError('DISK_NO_SPACE', 'Too much came.');
    destination.reset(reason);
    await expect(destination.done).rejects.toBe(reason);
    await expect(source.done).rejects.toMatchObject({
      reason: 'DISK_NO_SPACE',
      message: 'Too much came.',
    });
    await Promise.all(ends);
    expect(source.endedFirst).toBe('stream');
  });

  it('stops a QEMU whose peer does not read, after bounded bytes', async () => {
    const { source, sourceQemu, destinationQemu } = await stage.way();
    destinationQemu.pause();
    const block = Buffer.alloc(256 * 1024);
    let acceptedBytes = 0;
    const isTaken = () =>
      new Promise<boolean>((resolve) => {
        const stalls = setTimeout(() => resolve(false), 700);
        sourceQemu.write(block, () => {
          clearTimeout(stalls);
          resolve(true);
        });
      });
    while (await isTaken()) acceptedBytes += block.length;
    // Our pieces at both ends, the sockets' buffers and the window of TCP between them.
    expect(acceptedBytes).toBeLessThan(24 * MIB);
    destinationQemu.resume();
    sourceQemu.end();
    destinationQemu.once('end', () => destinationQemu.end());
    expect(await source.done).toMatchObject({ sentBytes: acceptedBytes + block.length });
  });

  it('is opened by a ticket once only', async () => {
    const arrival = stage.path();
    const { accepted } = await stage.listen(arrival);
    const { place, carriage } = await stage.expect(arrival);
    const { signal } = new AbortController();
    const first = await stage.source.carry(stage.path(), place, { signal });
    await accepted;
    await expect(stage.source.carry(stage.path(), place, { signal })).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
    first.reset(new Error('over'));
    await expect(carriage.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
  });

  it('is not opened by a ticket that was taken back', async () => {
    const { place, carriage } = await stage.expect(stage.path());
    const reason = new ReasonedError('CANCELLED_BY', 'Somebody has cancelled.');
    carriage.reset(reason);
    await expect(carriage.done).rejects.toBe(reason);
    const { signal } = new AbortController();
    await expect(stage.source.carry(stage.path(), place, { signal })).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
  });

  it('fails at once where no QEMU listens at the destination', async () => {
    const { place, carriage } = await stage.expect(stage.path());
    const { signal } = new AbortController();
    await expect(stage.source.carry(stage.path(), place, { signal })).rejects.toMatchObject({
      reason: 'PEER_LOST',
    });
    await expect(carriage.done).rejects.toMatchObject({ code: 'ENOENT' });
    expect(carriage.endedFirst).toBe('socket');
  });

  it('ends the wait for a QEMU that never comes when it is reset', async () => {
    const arrival = stage.path();
    const departure = stage.path();
    await stage.listen(arrival);
    const { place, carriage } = await stage.expect(arrival);
    const { signal } = new AbortController();
    const source = await stage.source.carry(departure, place, { signal });
    source.reset(new Error('over'));
    await expect(source.done).rejects.toThrow('over');
    await expect(carriage.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
    await expect(stage.connect(departure)).rejects.toThrow();
  });

  it('is not begun for somebody who does not wait any more', async () => {
    const { place, carriage } = await stage.expect(stage.path());
    const reason = new Error('enough');
    await expect(
      stage.source.carry(stage.path(), place, { signal: AbortSignal.abort(reason) }),
    ).rejects.toBe(reason);
    carriage.reset(reason);
  });

  it('cannot be had from a host that is another one, nor from a port where nobody listens', async () => {
    const { place } = await stage.expect(stage.path());
    const { signal } = new AbortController();
    const carry = (change: object) =>
      stage.source.carry(stage.path(), { ...place, ...change }, { signal });
    await expect(carry({ host: 'host-c' })).rejects.toMatchObject({
      reason: 'TLS_PEER_REJECTED',
      message: expect.stringContaining('host-b'),
    });
    await expect(carry({ port: 1 })).rejects.toMatchObject({ reason: 'PEER_UNREACHABLE' });
  });
});

describe('a worker that carries streams', () => {
  let stage: CarrierStage | undefined;
  afterEach(() => stage?.[Symbol.asyncDispose]());

  it('is not there before it is needed', async () => {
    stage = await CarrierStage.open((settings) => new WorkerCarrier(settings));
    expect((stage.source as WorkerCarrier).started).toBe(false);
    const way = await stage.way();
    expect((stage.source as WorkerCarrier).started).toBe(true);
    way.source.reset(new Error('over'));
  });

  it('breaks its streams when it ends by a fault, and the next need starts another', async () => {
    const workers: Worker[] = [];
    const onWorker = (worker: Worker) => void workers.push(worker);
    process.on('worker', onWorker);
    stage = await CarrierStage.open((settings) => new WorkerCarrier(settings));
    const way = await stage.way();
    const { carriage } = await stage.expect(stage.path());
    const ended = [way.sourceQemu, way.destinationQemu].map((socket) => {
      socket.resume();
      socket.once('end', () => socket.end());
      return closed(socket);
    });
    await Promise.all(workers.map((worker) => worker.terminate()));
    for (const one of [way.source, way.destination, carriage]) {
      await expect(one.done).rejects.toMatchObject({ reason: 'PEER_LOST' });
    }
    await Promise.all(ended);
    const next = await stage.way();
    next.sourceQemu.end('once more');
    expect(await receiveText(next.destinationQemu)).toBe('once more');
    process.off('worker', onWorker);
    expect(workers).toHaveLength(4);
  });

  it('carries much with little memory, and holds up nobody', async () => {
    stage = await CarrierStage.open((settings) => new WorkerCarrier(settings));
    const way = await stage.way();
    const before = process.memoryUsage.rss();
    const sizeBytes = 256 * MIB;
    let most = 0;
    const sampling = setInterval(() => {
      most = Math.max(most, process.memoryUsage.rss() - before);
    }, 20);
    way.destinationQemu.resume();
    way.destinationQemu.once('end', () => way.destinationQemu.end());
    const block = Buffer.alloc(MIB);
    for (let sent = 0; sent < sizeBytes; sent += block.length) {
      if (!way.sourceQemu.write(block)) {
        await new Promise((resolve) => way.sourceQemu.once('drain', resolve));
      }
    }
    way.sourceQemu.end();
    expect(await way.source.done).toEqual({ sentBytes: sizeBytes, receivedBytes: 0 });
    clearInterval(sampling);
    expect(most).toBeLessThan(128 * MIB);
  });
});

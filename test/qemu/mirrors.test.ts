import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { MirrorStage } from '../support/mirror-stage.js';

const MIB = 1024 ** 2;
const { signal } = new AbortController();

let stage: MirrorStage;
afterEach(() => stage[Symbol.asyncDispose]());

const jobs = () => stage.source.process.qmp.execute('query-block-jobs', {});

/** Writes round and round, 1 MiB at a time, until `done`; no faster than so many per second. */
async function writeUntil(done: Promise<unknown>, perSecond: number, mebibytes: number) {
  let over = false;
  const end = done.finally(() => {
    over = true;
  });
  end.catch(() => undefined);
  const startMs = performance.now();
  for (let count = 0; !over; count++) {
    const place = `${6 + (count % mebibytes)}M`;
    await stage.guest(`write -P ${(count % 250) + 1} ${place} 1M`);
    const dueMs = startMs + (count * 1000) / perSecond;
    await Promise.race([end, delay(Math.max(1, dueMs - performance.now()))]);
  }
  await end;
}

describe.each(['raw', 'qcow2'])('a %s disk', (format) => {
  const disks = [
    { id: 'root', sizeBytes: MIB, cache: 'writethrough' },
    { id: 'data', sizeBytes: 64 * MIB, format, cache: 'writethrough' },
  ];

  it.each([true, false])(
    'with holes and zeros travels as its data only (fresh: %s)',
    async (fresh) => {
      stage = await MirrorStage.open({ disks });
      await stage.guest('write -P 7 8M 16M', 'data');
      await stage.guest('discard 16M 8M', 'data');
      await stage.guest('write -P 0 24M 8M', 'data');
      const mirrors = await stage.mirror({}, fresh);
      await mirrors.ready({ signal });
      await mirrors.activate({ signal });
      await stage.settle();
      await stage.compare('data');
      expect(stage.carrier.sentBytes).toBeGreaterThan(8 * MIB);
      expect(stage.carrier.sentBytes).toBeLessThan(8.4 * MIB);
      expect(await stage.allocatedBytes(stage.twin, 'data')).toBeLessThan(8.5 * MIB);
      expect(stage.problems).toEqual([]);
    },
  );

  // QEMU ignores discards of a disk that is being mirrored: what is zeroed can be given back.
  it('gives back on the other side what its guest zeroes meanwhile', async () => {
    stage = await MirrorStage.open({ disks });
    await stage.guest('write -P 7 8M 32M', 'data');
    stage.carrier.bytesPerSecond = 16 * MIB;
    const mirrors = await stage.mirror();
    // Not copied yet, copied, followed, and followed while the guest waits for both images.
    await stage.guest('write -P 0 36M 4M', 'data');
    await expect.poll(() => stage.carrier.sentBytes, { timeout: 10_000 }).toBeGreaterThan(20 * MIB);
    await stage.guest('write -z -u 8M 4M', 'data');
    await stage.guest('discard 12M 1M', 'data');
    stage.carrier.bytesPerSecond = 0;
    await mirrors.ready({ signal });
    await stage.guest('write -z -u 16M 4M', 'data');
    await mirrors.activate({ signal });
    await stage.guest('write -P 0 24M 4M', 'data');
    await stage.guest('discard 28M 1M', 'data');
    await stage.settle();
    await stage.compare('data');
    expect(await stage.allocatedBytes(stage.twin, 'data')).toBeLessThan(17 * MIB);
  });
});

it('a disk that is written faster than the mirror may copy becomes ready all the same', async () => {
  stage = await MirrorStage.open({
    disks: [{ id: 'root', sizeBytes: 32 * MIB, cache: 'writethrough' }],
  });
  await stage.guest('write -P 7 6M 26M');
  const mirrors = await stage.mirror({ maxBandwidth: 4 * MIB });
  await writeUntil(mirrors.ready({ signal }), 8, 8);
  await writeUntil(mirrors.activate({ signal }), 8, 8);
  await stage.settle();
  await stage.compare();
  expect(stage.problems).toEqual([]);
});

// A job that is not woken takes a tenth of a second to notice.
it('a mirror is active at once when nothing is left to copy', async () => {
  stage = await MirrorStage.open({});
  const tookMs: number[] = [];
  for (let count = 0; count < 4; count++) {
    await using mirrors = await stage.mirror();
    await mirrors.ready({ signal });
    await delay(150);
    const startMs = performance.now();
    await mirrors.activate({ signal });
    tookMs.push(performance.now() - startMs);
  }
  expect(Math.min(...tookMs)).toBeLessThan(50);
});

it('a mirror whose stream breaks fails at once, and says why', async () => {
  stage = await MirrorStage.open({});
  const mirrors = await stage.mirror();
  await mirrors.ready({ signal });
  await mirrors.activate({ signal });
  stage.carrier.carriages[0]?.break(new Error('The host there is gone.'));
  await expect(mirrors.settled).rejects.toMatchObject({
    reason: 'MIRROR_FAILED',
    cause: { message: 'The host there is gone.' },
  });
  await mirrors[Symbol.asyncDispose]();
  expect(await jobs()).toEqual([]);
});

it('a mirror that is given up while the guest waits for both images leaves the guest alone', async () => {
  stage = await MirrorStage.open({
    disks: [{ id: 'root', sizeBytes: 32 * MIB, cache: 'writethrough' }],
  });
  await stage.guest('write -P 7 6M 26M');
  const mirrors = await stage.mirror({ maxBandwidth: 4 * MIB });
  const blocked = expect
    .poll(() => stage.commands.includes('block-job-change'), { timeout: 20_000 })
    .toBe(true);
  await writeUntil(blocked, 8, 8);
  await writeUntil(mirrors[Symbol.asyncDispose](), 8, 8);
  expect(await jobs()).toEqual([]);
  expect(stage.problems).toEqual([]);
  await stage.guest('write -P 9 6M 1M');
});

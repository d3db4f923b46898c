import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Leftover, removeMirrors } from '../../src/domain/mirror-removal.js';
import { FakeLauncher } from '../support/fake-qemu.js';
import { MirrorStage } from '../support/mirror-stage.js';

const MIB = 1024 ** 2;
const KIB = 1024;
const { signal } = new AbortController();

let stage: MirrorStage;
let launcher: FakeLauncher;

const disk = (id: string, sizeBytes = MIB) => ({ id, sizeBytes });

async function open(...disks: object[]): Promise<void> {
  stage = await MirrorStage.open({ launcher, disks });
}

/** The arguments of each command of that name that the source's QEMU got. */
const sent = (command: string) =>
  launcher.qemus
    .flatMap(({ received }) => received)
    .filter((one) => one.command === command)
    .map((one) => one.args as Record<string, unknown>);

const run = () => stage.source.process.qmp.execute('cont', {});

beforeEach(() => {
  launcher = new FakeLauncher({ idle: false });
});
afterEach(async () => {
  await stage[Symbol.asyncDispose]();
  launcher.killAll();
});

describe('a mirror', () => {
  it('copies what is allocated to a target that is new, and everything to one that is not', async () => {
    await open(disk('root'));
    await (await stage.mirror()).ready({ signal });
    expect(sent('blockdev-mirror')).toMatchObject([{ sync: 'top', 'copy-mode': 'background' }]);
    expect(sent('blockdev-mirror')[0]).not.toHaveProperty('buf-size');
    await stage[Symbol.asyncDispose]();
    await open(disk('root'));
    await (await stage.mirror({ roundTripMs: 20 }, false)).ready({ signal });
    expect(sent('blockdev-mirror')[1]).toMatchObject({ sync: 'full', 'buf-size': 50_000_000 });
  });

  it('goes through a socket of the carrier, without a key of its own', async () => {
    await open(disk('root'));
    await (await stage.mirror()).ready({ signal });
    const [target] = sent('blockdev-add').filter(({ driver }) => driver === 'nbd');
    expect(target).toMatchObject({ server: { type: 'unix' } });
    expect(target).not.toHaveProperty('tls-creds');
    expect(sent('object-add')).toEqual([]);
  });

  it('becomes write-blocking only when it is to be activated, and is woken then', async () => {
    await open(disk('root'));
    await run();
    const mirrors = await stage.mirror();
    await mirrors.ready({ signal });
    expect(sent('block-job-change')).toEqual([]);
    await mirrors.activate({ signal });
    expect(sent('block-job-change')).toHaveLength(1);
    expect(sent('block-job-set-speed').at(-1)).toEqual({ device: 'mirror-root', speed: 0 });
    await stage.settle();
    await stage.compare();
  });

  it('becomes write-blocking earlier when its guest writes faster than it may copy', async () => {
    await open(disk('root', 256 * KIB));
    await run();
    const mirrors = await stage.mirror({ maxBandwidth: 128 * KIB });
    await mirrors.ready({ signal });
    expect(sent('block-job-change')).toHaveLength(1);
    await mirrors.activate({ signal });
    await stage.settle();
    await stage.compare();
  });

  it('that copies is forced to end only while no write can wait for both images', async () => {
    await open(disk('root', 16 * MIB));
    await run();
    const ending = async (leftover: Leftover) => {
      const before = launcher.qemus[0]?.received.length ?? 0;
      await removeMirrors(stage.source.process, [leftover], () => undefined);
      const after = launcher.qemus[0]?.received.slice(before).map(({ command }) => command) ?? [];
      return after.filter((name) => ['stop', 'block-job-cancel', 'cont'].includes(name));
    };
    const names = { job: 'mirror-root', target: 'target-root' };
    await stage.mirror({ maxBandwidth: MIB });
    expect(await ending({ ...names, writeBlocking: false })).toEqual(['block-job-cancel']);
    await stage.mirrors[Symbol.asyncDispose]();
    await stage.mirror({ maxBandwidth: MIB });
    expect(await ending(names)).toEqual(['stop', 'block-job-cancel', 'cont']);
    expect(await stage.source.process.qmp.execute('query-status', {})).toMatchObject({
      status: 'running',
    });
  });

  it('fails when its stream ends, with what broke it as the cause', async () => {
    await open(disk('root'));
    const mirrors = await stage.mirror();
    await mirrors.ready({ signal });
    stage.carrier.carriages[0]?.break(new Error('The peer is gone.'));
    await expect(mirrors.settled).rejects.toMatchObject({
      reason: 'MIRROR_FAILED',
      cause: { message: 'The peer is gone.' },
    });
  });

  it('is not begun where no stream leads to the destination', async () => {
    await open(disk('root'));
    stage.carrier.carry = () => Promise.reject(new Error('Nobody is there.'));
    await expect(stage.mirror()).rejects.toMatchObject({
      reason: 'MIRROR_FAILED',
      cause: { message: 'Nobody is there.' },
    });
    expect(sent('blockdev-mirror')).toEqual([]);
  });
});

describe('the speed of several mirrors', () => {
  const speeds = async () =>
    (await stage.source.process.qmp.execute('query-block-jobs', {}))
      .filter(({ ready }) => !ready)
      .map(({ device, speed }) => [device, speed]);

  it('is divided among those that copy, and divided anew when it changes', async () => {
    await open(disk('a', 4 * MIB), disk('b', 4 * MIB));
    const mirrors = await stage.mirror({ maxBandwidth: 64 * KIB });
    expect(await speeds()).toEqual([
      ['mirror-a', 32 * KIB],
      ['mirror-b', 32 * KIB],
    ]);
    await mirrors.setSpeed(256 * KIB);
    expect(await speeds()).toEqual([
      ['mirror-a', 128 * KIB],
      ['mirror-b', 128 * KIB],
    ]);
    await mirrors.setSpeed(0);
    await mirrors.ready({ signal });
  });

  it('goes to those that are left when one is ready', async () => {
    await open(disk('a', 64 * KIB), disk('b', 16 * MIB));
    await stage.mirror({ maxBandwidth: 512 * KIB });
    await expect.poll(speeds, { timeout: 5000 }).toEqual([['mirror-b', 512 * KIB]]);
  });
});

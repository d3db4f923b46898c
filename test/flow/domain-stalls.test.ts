import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import type { Transport } from '../../src/channel/types.js';
import type * as Faults from '../../src/domain/faults.js';
import { FakeHost, fakeSpec } from '../support/fake-host.js';
import type { Fault } from '../support/fake-qemu/faults.js';
import { hold } from '../support/fake-qemu.js';
import { SteppedMove } from '../support/stepped-move.js';

/** What a step may take here, so that a test of a stall does not take as long as a stall. */
const STEP_MS = vi.hoisted(() => 500);
vi.mock('../../src/domain/faults.js', async (original) => ({
  ...(await original<typeof Faults>()),
  STEP_LIMIT_MS: STEP_MS,
}));

const { signal } = new AbortController();

/** Two hosts, and the guest of the first one ready to leave. */
class Stage implements AsyncDisposable {
  readonly here = new FakeHost({}, { idle: false });
  readonly there = new FakeHost({ host: 'there' }, { idle: false });
  move!: SteppedMove;

  async open(transport: Transport = 'direct'): Promise<this> {
    await this.here.open();
    await this.there.open();
    await this.here.domains.create(fakeSpec, { signal });
    await this.here.domains.start('web1', { paused: false }, { signal });
    await this.written(this.here);
    this.move = new SteppedMove(this.here, this.there);
    this.move.transport = transport;
    await this.move.prepare();
    await this.move.mirror();
    await this.move.precopy();
    await this.move.switchover();
    return this;
  }

  /** At this point QEMU stands still until a connection of it is cut. */
  stall(host: FakeHost, at: Fault['at']): void {
    const stuck = hold();
    host.launcher.faults.add({ at, action: stuck.action });
    host.launcher.faults.add({
      at: { command: 'yank' },
      when: 'after',
      times: 100,
      action: () => stuck.release(),
    });
  }

  async written(host: FakeHost): Promise<void> {
    const count = () => host.launcher.qemus.at(-1)?.acknowledged.length ?? 0;
    const before = count();
    await expect.poll(count, { interval: 5, timeout: 5000 }).toBeGreaterThan(before + 3);
  }

  /** What the flow does when it unwinds. */
  async unwind(): Promise<void> {
    await this.move.ram[Symbol.asyncDispose]();
    await this.move.mirrors[Symbol.asyncDispose]();
    await this.move.incoming[Symbol.asyncDispose]();
    this.here.domains.unclaim(this.move.uuid, 'm1');
  }

  async expectNextMoveSucceeds(): Promise<void> {
    for (const { launcher } of [this.here, this.there]) launcher.faults.clear();
    await this.written(this.here);
    expect(await this.there.stage.leftovers()).toEqual([]);
    const next = new SteppedMove(this.here, this.there);
    await next.prepare();
    await next.mirror();
    await next.finish();
    await this.written(this.there);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.here.close();
    await this.there.close();
  }
}

const stepsBefore = (step: string): readonly ('settle' | 'complete' | 'load')[] =>
  step === 'settle' ? [] : step === 'complete' ? ['settle'] : ['settle', 'complete'];

describe('when QEMU stands still in the switchover', () => {
  it.each([
    ['settle', { command: 'block-job-cancel' }],
    ['settle', { event: 'BLOCK_JOB_COMPLETED' }],
    ['settle', { command: 'job-dismiss' }],
    ['settle', { command: 'blockdev-del' }],
    ['complete', { command: 'migrate-continue' }],
    ['complete', { event: 'MIGRATION', status: 'device' }],
  ] as const)(
    'the source gives "%s" at %j up in time, and the guest runs here again at once',
    async (step, at) => {
      await using stage = await new Stage().open();
      const { move } = stage;
      for (const before of stepsBefore(step)) await move[before]();
      stage.stall(stage.here, at);
      const beganMs = performance.now();
      await expect(move[step]()).rejects.toMatchObject({ reason: 'STALLED', side: 'source' });
      await stage.unwind();
      expect(performance.now() - beganMs).toBeLessThan(2.5 * STEP_MS);
      await stage.expectNextMoveSucceeds();
      expect(stage.here.stage.problems).toEqual([]);
    },
  );

  it.each([
    ['settle', { command: 'object-del' }],
    ['complete', { command: 'query-migrate' }],
    ['load', { command: 'query-block-jobs' }],
  ] as const)(
    'the source that gives "%s" at %j up asks a QEMU that hangs by itself until it moves again',
    async (step, at) => {
      await using stage = await new Stage().open();
      const { move } = stage;
      for (const before of stepsBefore(step)) await move[before]();
      const stuck = hold();
      stage.here.launcher.faults.add({ at, action: stuck.action });
      await expect(move[step]()).rejects.toMatchObject({ reason: 'STALLED', side: 'source' });
      let unwound = false;
      const unwinding = stage.unwind().then(() => {
        unwound = true;
      });
      await delay(5 * STEP_MS);
      expect(unwound).toBe(false);
      stuck.release();
      await unwinding;
      await stage.expectNextMoveSucceeds();
    },
  );

  it('the source lets go of a QEMU that hangs by itself and then ends', async () => {
    await using stage = await new Stage().open();
    await stage.move.settle();
    const stuck = hold();
    stage.here.launcher.faults.add({ at: { command: 'query-migrate' }, action: stuck.action });
    await expect(stage.move.complete()).rejects.toMatchObject({ reason: 'STALLED' });
    const unwinding = stage.unwind();
    for (const qemu of stage.here.launcher.alive) qemu.die();
    await unwinding;
  });

  it.each(['nbd-server-stop', 'query-status', 'query-block-exports'])(
    'the destination gives its vote up when "%s" has no answer, and goes without a trace',
    async (command) => {
      await using stage = await new Stage().open();
      await stage.move.settle();
      const stuck = hold();
      stage.there.launcher.faults.add({ at: { command }, action: stuck.action });
      await stage.move.complete();
      await expect(stage.move.loading).rejects.toMatchObject({
        reason: 'STALLED',
        side: 'destination',
      });
      await stage.unwind();
      await stage.expectNextMoveSucceeds();
    },
  );

  it.each(['direct', 'stream'] as const)(
    'the destination gives its vote up when the guest is not loaded after the last byte: %s',
    async (transport) => {
      await using stage = await new Stage().open(transport);
      await stage.move.settle();
      const stuck = hold();
      stage.there.launcher.faults.add({
        at: { event: 'MIGRATION', status: 'completed' },
        action: stuck.action,
      });
      await expect(stage.move.complete()).rejects.toMatchObject({ reason: 'STALLED' });
      // Where the bytes pass it by, it hears from the source that there are no more.
      if (transport === 'stream') {
        await expect(stage.move.loading).rejects.toMatchObject({ reason: 'STALLED' });
      }
      await stage.unwind();
      await stage.expectNextMoveSucceeds();
    },
  );

  it('the destination does not say that a guest never ran whose start has no answer', async () => {
    await using stage = await new Stage().open();
    const { move } = stage;
    await move.settle();
    await move.complete();
    await move.load();
    const stuck = hold();
    stage.there.launcher.faults.add({ at: { command: 'cont' }, action: stuck.action });
    await expect(move.incoming.resume({ paused: false }, { signal })).rejects.toMatchObject({
      reason: 'STALLED',
      side: 'destination',
    });
    expect(move.incoming.mayHaveRun).toBe(true);
    stuck.release();
    await move.handOver();
    await stage.written(stage.there);
  });
});

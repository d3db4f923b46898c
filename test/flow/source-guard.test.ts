import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeHost, fakeSpec } from '../support/fake-host.js';
import type { FakeQemu } from '../support/fake-qemu/qemu.js';
import { SteppedMove } from '../support/stepped-move.js';

const { signal } = new AbortController();

let here: FakeHost;
let there: FakeHost;
let move: SteppedMove;
let source: FakeQemu;

beforeEach(async () => {
  here = await new FakeHost().open();
  there = await new FakeHost({ host: 'there' }).open();
  await here.domains.create(fakeSpec, { signal });
  await here.domains.start('web1', { paused: false }, { signal });
  source = here.launcher.alive[0]!;
  move = new SteppedMove(here, there);
  await (await (await (await move.prepare()).mirror()).precopy()).switchover();
});
afterEach(async () => {
  await here.close();
  await there.close();
});

describe('what is read again before the guest is given up', () => {
  const read = () => move.ram.guard({ signal });

  it('is good when QEMU has completed after its mirrors had settled', async () => {
    await (await move.settle()).complete();
    expect(await read()).toEqual({ fenced: true, settled: true });
  });

  it('is no fence before QEMU has completed', async () => {
    await move.settle();
    expect(await read()).toEqual({ fenced: false, settled: true });
  });

  it('is no fence once the guest has run since its pause, whatever it does now', async () => {
    await (await move.settle()).complete();
    await source.startGuest();
    expect(await read()).toEqual({ fenced: false, settled: true });
    await source.stopGuest('postmigrate');
    expect(await read()).toEqual({ fenced: false, settled: true });
  });

  it('is not settled while a mirror is left, or where none has told how it ended', async () => {
    await move.complete();
    expect(await read()).toEqual({ fenced: true, settled: false });
    source.jobs.clear();
    expect(await read()).toEqual({ fenced: true, settled: false });
  });

  it('is not settled where a mirror has come since', async () => {
    await (await move.settle()).complete();
    const job = { describe: () => ({ device: 'mirror-root' }) };
    source.jobs.set('mirror-root', job as never);
    expect(await read()).toEqual({ fenced: true, settled: false });
    source.jobs.clear();
  });
});

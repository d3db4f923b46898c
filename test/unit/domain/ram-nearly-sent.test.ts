import { afterEach, expect, test } from 'vitest';
import { untilNearlySent } from '../../../src/domain/ram-nearly-sent.js';
import { QmpClient } from '../../../src/qmp/client.js';
import { ScriptedMonitor } from '../../support/scripted-qmp.js';

const MIB = 1024 ** 2;

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

/** Follows the first pass; `done` is true as soon as it counts as done. */
async function follow() {
  const monitor = await ScriptedMonitor.start();
  open.push(monitor);
  const qmp = await QmpClient.connect(monitor.path);
  open.push(qmp);
  const passes = qmp.listen('MIGRATION_PASS');
  const state = { looks: 0, done: false };
  const { signal } = new AbortController();
  const end = untilNearlySent(qmp, passes, { signal }).then(() => {
    state.done = true;
  });
  end.catch(() => undefined);
  /** Answers the next question: so much is left. */
  const left = async (remaining: number, pass = 1) => {
    state.looks++;
    const asked = (await monitor.received(state.looks))[state.looks - 1];
    const ram = { total: 512 * MIB, remaining, 'dirty-sync-count': pass, transferred: 1 };
    monitor.say({ return: { status: 'active', ram }, id: asked?.['id'] });
  };
  return { monitor, state, end, left };
}

test('the first pass counts as done shortly before its end', async () => {
  const { state, end, left } = await follow();
  await left(512 * MIB);
  // At this rate it takes seconds.
  await left(511 * MIB);
  await left(510 * MIB);
  expect(state.done).toBe(false);
  await left(1 * MIB);
  await end;
});

test('it is done where the second one has begun', async () => {
  const { end, left } = await follow();
  await left(512 * MIB, 2);
  await end;
});

test('the event of the second pass ends the wait for the next look', async () => {
  const { monitor, end, left } = await follow();
  await left(512 * MIB);
  await left(511 * MIB);
  monitor.say({ event: 'MIGRATION_PASS', data: { pass: 2 }, timestamp: {} });
  await left(510 * MIB, 2);
  await end;
});

test('a stream that does not move is not nearly sent', async () => {
  const { state, left } = await follow();
  for (let look = 0; look < 3; look++) await left(5 * MIB);
  expect(state.done).toBe(false);
});

import { afterEach, expect, test } from 'vitest';
import { DowntimeLadder, plannedDowntimeMs } from '../../../src/domain/downtime-ladder.js';
import { QmpClient } from '../../../src/qmp/client.js';
import { deferred } from '../../../src/util/deferred.js';
import { ScriptedMonitor } from '../../support/scripted-qmp.js';

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

async function climb(limitMs: number) {
  const monitor = await ScriptedMonitor.start();
  open.push(monitor);
  const qmp = await QmpClient.connect(monitor.path);
  open.push(qmp);
  const reported = deferred<string>();
  const ladder = new DowntimeLadder(qmp, limitMs, reported.resolve);
  const pass = (number: number) =>
    monitor.say({ event: 'MIGRATION_PASS', data: { pass: number }, timestamp: {} });
  return { monitor, ladder, reported, pass };
}

const planned = (limitMs: number) =>
  [1, 2, 3, 4, 5, 6, 7, 50].map((pass) => plannedDowntimeMs(pass, limitMs));

test('the downtime begins short and doubles with every pass that was not enough', () => {
  expect(planned(300)).toEqual([30, 30, 30, 60, 120, 240, 300, 300]);
  expect(planned(10)).toEqual([10, 10, 10, 10, 10, 10, 10, 10]);
});

async function answer(monitor: ScriptedMonitor, count: number, value: object = {}) {
  const sent = (await monitor.received(count))[count - 1];
  monitor.say({ return: value, id: sent?.['id'] });
  return sent;
}

const sentBytes = (transferred: number, totalMs: number) => ({
  status: 'active',
  'total-time': totalMs,
  'setup-time': 50,
  ram: { transferred },
});

test('QEMU plans with what the link gave, and not with what mirrors left of it', async () => {
  const { monitor, ladder } = await climb(300);
  using _ladder = ladder;
  const released = ladder.release();
  expect(ladder.released).toBe(true);
  expect(await answer(monitor, 1, sentBytes(200_000, 2050))).toMatchObject({
    execute: 'query-migrate',
  });
  expect((await answer(monitor, 2))?.['arguments']).toEqual({
    'downtime-limit': 30,
    'avail-switchover-bandwidth': 100_000,
  });
  await released;
});

test('what is known of the link from elsewhere counts when it is more', async () => {
  const { monitor, ladder } = await climb(10);
  using _ladder = ladder;
  const released = ladder.release(5e6);
  await answer(monitor, 1, sentBytes(200_000, 2050));
  expect((await answer(monitor, 2))?.['arguments']).toEqual({
    'downtime-limit': 10,
    'avail-switchover-bandwidth': 5e6,
  });
  await released;
});

test('after the release QEMU is told of each raise once, as its passes go on', async () => {
  const { monitor, ladder, pass } = await climb(100);
  using _ladder = ladder;
  const released = ladder.release();
  await answer(monitor, 1, sentBytes(0, 50));
  await answer(monitor, 2);
  await released;
  for (const number of [1, 2, 3, 4]) pass(number);
  await answer(monitor, 3);
  for (const number of [5, 6]) pass(number);
  await answer(monitor, 4);
  const sent = await monitor.received(4);
  expect(sent.slice(2).map((message) => message['arguments'])).toEqual([
    { 'downtime-limit': 60 },
    { 'downtime-limit': 100 },
  ]);
});

test('nothing is asked of QEMU while the guest stands still', async () => {
  const { monitor, ladder, pass } = await climb(100);
  using _ladder = ladder;
  const released = ladder.release();
  await answer(monitor, 1, sentBytes(0, 50));
  await answer(monitor, 2);
  await released;
  monitor.say({ event: 'STOP', data: {}, timestamp: {} });
  pass(4);
  monitor.say({ event: 'RESUME', data: {}, timestamp: {} });
  pass(5);
  expect((await answer(monitor, 3))?.['arguments']).toEqual({ 'downtime-limit': 100 });
});

test('a raise that QEMU refuses is reported, and nothing is thrown', async () => {
  const { monitor, ladder, pass, reported } = await climb(100);
  using _ladder = ladder;
  const released = ladder.release();
  await answer(monitor, 1, sentBytes(0, 50));
  await answer(monitor, 2);
  await released;
  pass(4);
  const sent = (await monitor.received(3))[2];
  monitor.say({ error: { class: 'GenericError', desc: 'No.' }, id: sent?.['id'] });
  expect(await reported.promise).toBe('raise the downtime limit');
});

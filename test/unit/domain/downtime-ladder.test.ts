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

test('QEMU is told of each raise once, as its passes go on', async () => {
  const { monitor, ladder, pass } = await climb(100);
  using _ladder = ladder;
  expect(ladder.firstMs).toBe(30);
  for (const number of [1, 2, 3, 4]) pass(number);
  const [first] = await monitor.received(1);
  monitor.say({ return: {}, id: first?.['id'] });
  for (const number of [5, 6]) pass(number);
  const sent = await monitor.received(2);
  monitor.say({ return: {}, id: sent[1]?.['id'] });
  expect(sent.map((message) => message['arguments'])).toEqual([
    { 'downtime-limit': 60 },
    { 'downtime-limit': 100 },
  ]);
});

test('a raise that QEMU refuses is reported, and nothing is thrown', async () => {
  const { monitor, ladder, pass, reported } = await climb(100);
  using _ladder = ladder;
  pass(4);
  const [first] = await monitor.received(1);
  monitor.say({ error: { class: 'GenericError', desc: 'No.' }, id: first?.['id'] });
  expect(await reported.promise).toBe('raise the downtime limit');
});

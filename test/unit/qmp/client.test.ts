import { describe, expect, test } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.js';
import { ScriptedMonitor } from '../../support/scripted-qmp.js';

const signal = AbortSignal.timeout(20_000);

describe('a QMP connection', () => {
  test('finds the answer of each command by its id, in whatever order they come', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    const first = client.execute('query-status');
    const second = client.execute('query-uuid');
    const [one, two] = await monitor.received(2);
    monitor.say({ return: { UUID: 'u' }, id: two?.['id'] });
    monitor.say({ return: { status: 'running', running: true }, id: one?.['id'] });
    expect(await second).toEqual({ UUID: 'u' });
    expect(await first).toEqual({ status: 'running', running: true });
  });

  test('tells what QEMU refuses, with class and command', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    const refused = client.execute('cont');
    const [sent] = await monitor.received(1);
    monitor.say({ id: sent?.['id'], error: { class: 'DeviceNotActive', desc: 'no' } });
    await expect(refused).rejects.toMatchObject({
      name: 'QmpError',
      command: 'cont',
      errorClass: 'DeviceNotActive',
      description: 'no',
    });
  });

  test('gives up on a command after its time limit and ignores the late answer', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    await expect(client.execute('stop', {}, { limitMs: 20 })).rejects.toMatchObject({
      name: 'QmpTimeoutError',
      limitMs: 20,
    });
    const [late] = await monitor.received(1);
    monitor.say({ return: {}, id: late?.['id'] });
    const next = client.execute('query-uuid');
    const [, sent] = await monitor.received(2);
    monitor.say({ return: { UUID: 'u' }, id: sent?.['id'] });
    expect(await next).toEqual({ UUID: 'u' });
  });

  test('stops waiting with the reason of the signal', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    const controller = new AbortController();
    const waiting = client.execute('stop', {}, { signal: controller.signal });
    await monitor.received(1);
    controller.abort(new Error('cancelled by a person'));
    await expect(waiting).rejects.toThrow('cancelled by a person');
    await expect(client.execute('stop', {}, { signal: controller.signal })).rejects.toThrow(
      'cancelled by a person',
    );
    expect(monitor.sent).toHaveLength(1);
  });

  test('rejects everything in flight when the connection closes', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path);
    using events = client.listen('STOP');
    const pending = [client.execute('stop'), client.execute('cont'), events.next({ signal })];
    const outcome = Promise.allSettled(pending);
    await monitor.received(2);
    monitor.hangUp();
    for (const result of await outcome) {
      expect(result).toMatchObject({ status: 'rejected', reason: { name: 'QmpClosedError' } });
    }
    expect(await client.closed).toMatchObject({ name: 'QmpClosedError' });
    await expect(client.execute('stop')).rejects.toMatchObject({ name: 'QmpClosedError' });
    await expect(client.listen('STOP').next({ signal })).rejects.toMatchObject({
      name: 'QmpClosedError',
    });
  });

  test('refuses commands at once after its end, however many were in flight then', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    const inFlight = Array.from({ length: 7 }, () => client.execute('query-status'));
    const ended = Promise.allSettled(inFlight);
    await monitor.received(7);
    await client.close();
    await ended;
    await expect(client.execute('query-status', {}, { limitMs: 1000 })).rejects.toMatchObject({
      name: 'QmpClosedError',
    });
  });

  test('sends an out-of-band command while others fill the queue', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path);
    const stuck = Promise.allSettled(
      Array.from({ length: 20 }, () => client.execute('query-status')),
    );
    const yank = client.executeOob('query-yank');
    const sent = await monitor.received(8);
    // QEMU stops reading when eight commands wait, so seven are let through and the rest wait here.
    expect(sent.filter((message) => 'execute' in message)).toHaveLength(7);
    const urgent = sent.find((message) => message['exec-oob'] === 'query-yank');
    monitor.say({ return: [], id: urgent?.['id'] });
    expect(await yank).toEqual([]);
    const first = sent.find((message) => 'execute' in message);
    monitor.say({ return: { status: 'running', running: true }, id: first?.['id'] });
    expect(await monitor.received(9)).toHaveLength(9);
    await client.close();
    expect((await stuck).filter(({ status }) => status === 'rejected')).toHaveLength(19);
  });

  test('a command that gave up waiting for its turn is never sent', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path);
    const stuck = Promise.allSettled(
      Array.from({ length: 7 }, () => client.execute('query-status')),
    );
    await expect(client.execute('cont', {}, { limitMs: 20 })).rejects.toMatchObject({
      name: 'QmpTimeoutError',
    });
    for (const message of await monitor.received(7)) {
      monitor.say({ return: { status: 'running', running: true }, id: message['id'] });
    }
    await stuck;
    const after = client.execute('query-uuid');
    const sent = await monitor.received(8);
    monitor.say({ return: { UUID: 'u' }, id: sent.at(-1)?.['id'] });
    await after;
    expect(sent.filter((message) => message['execute'] === 'cont')).toEqual([]);
    await client.close();
  });

  test('is closed when QEMU sends more than the limit without an end of line', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path, { messageLimitBytes: 1000 });
    const waiting = client.execute('query-uuid');
    waiting.catch(() => undefined);
    await monitor.received(1);
    monitor.say(`{"return": "${'x'.repeat(2000)}`);
    await expect(waiting).rejects.toMatchObject({
      name: 'QmpClosedError',
      cause: { name: 'QmpProtocolError' },
    });
  });

  test('is closed when QEMU answers what was not asked', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path);
    const asked = client.execute('stop').catch(() => undefined);
    const [sent] = await monitor.received(1);
    monitor.say({ return: {}, id: String(sent?.['id']).replace('c', 'c9') });
    expect(await client.closed).toMatchObject({ cause: { name: 'QmpProtocolError' } });
    await asked;
  });

  test('takes no answer that was meant for an earlier client of the monitor', async () => {
    await using monitor = await ScriptedMonitor.start();
    let earlier: unknown;
    {
      await using client = await QmpClient.connect(monitor.path);
      const unanswered = client.execute('query-status').catch(() => undefined);
      earlier = (await monitor.received(1))[0]?.['id'];
      await client.close();
      await unanswered;
    }
    await using client = await QmpClient.connect(monitor.path);
    const uuid = client.execute('query-uuid');
    const [, sent] = await monitor.received(2);
    monitor.say({ return: { status: 'running' }, id: earlier });
    monitor.say({ return: { UUID: 'u' }, id: sent?.['id'] });
    expect(await uuid).toEqual({ UUID: 'u' });
  });

  test.each([
    ['silence', null, 'QmpTimeoutError'],
    ['another protocol', '{"hello": 1}\r\n', 'QmpProtocolError'],
    ['no JSON at all', 'SSH-2.0\r\n', 'QmpClosedError'],
  ])('is refused on %s instead of a greeting', async (_name, greeting, error) => {
    await using monitor = await ScriptedMonitor.start(greeting);
    await expect(QmpClient.connect(monitor.path, { connectLimitMs: 50 })).rejects.toMatchObject({
      name: error,
    });
  });

  test('is refused where nobody listens', async () => {
    await expect(QmpClient.connect('/tmp/drover-absent.sock')).rejects.toMatchObject({
      name: 'QmpClosedError',
      cause: { code: 'ENOENT' },
    });
  });

  test('shows its transcript without secrets', async () => {
    await using monitor = await ScriptedMonitor.start();
    const seen: unknown[] = [];
    const transcript = (_direction: string, message: unknown) => seen.push(message);
    const client = await QmpClient.connect(monitor.path, { transcript });
    const secret = { 'qom-type': 'secret', id: 's', data: 'hunter2' } as const;
    const added = client.execute('object-add', secret);
    const [sent] = await monitor.received(1);
    monitor.say({ return: {}, id: sent?.['id'] });
    await added;
    expect(sent).toMatchObject({ arguments: { data: 'hunter2' } });
    expect(JSON.stringify(seen)).not.toContain('hunter2');
    expect(seen).toHaveLength(4);
    await client.close();
  });
});

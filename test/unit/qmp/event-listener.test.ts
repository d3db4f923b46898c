import { describe, expect, test } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.js';
import { ScriptedMonitor } from '../../support/scripted-qmp.js';

const signal = AbortSignal.timeout(20_000);

const job = (device: string) => ({ device, len: 1, offset: 1, speed: 0, type: 'mirror' });

describe('a listener', () => {
  test('has the event that came between its making and the waiting', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    using events = client.listen('BLOCK_JOB_READY');
    const started = client.execute('stop');
    const [sent] = await monitor.received(1);
    monitor.event('BLOCK_JOB_READY', job('a'), 42);
    monitor.say({ return: {}, id: sent?.['id'] });
    await started;
    expect(await events.next({ signal })).toEqual({
      name: 'BLOCK_JOB_READY',
      data: job('a'),
      timestampUs: 7_000_042,
    });
  });

  test('keeps what does not match for a later call, whatever the order', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    using events = client.listen('BLOCK_JOB_READY', 'STOP');
    const wanted = events.next((e) => e.name === 'BLOCK_JOB_READY' && e.data.device === 'b', {
      signal,
    });
    monitor.event('BLOCK_JOB_READY', job('a'));
    monitor.event('STOP');
    monitor.event('BLOCK_JOB_READY', job('b'));
    expect(await wanted).toMatchObject({ data: { device: 'b' } });
    expect(await events.next({ signal })).toMatchObject({ data: { device: 'a' } });
    expect(await events.next({ signal })).toMatchObject({ name: 'STOP' });
  });

  test('returns each event once', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    using events = client.listen('RESET');
    monitor.event('RESET', { guest: true, reason: 'guest-reset' });
    await events.next({ signal });
    await expect(events.next({ signal, limitMs: 20 })).rejects.toMatchObject({
      name: 'QmpTimeoutError',
      waitedFor: 'the event RESET',
    });
  });

  test('hears nothing of other names, and nothing from before it was made', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    using early = client.listen('STOP');
    monitor.event('STOP');
    await early.next({ signal });
    using late = client.listen('STOP');
    monitor.event('RESUME');
    await expect(late.next({ signal, limitMs: 20 })).rejects.toMatchObject({
      name: 'QmpTimeoutError',
    });
  });

  test('gives what it kept even after the connection closed', async () => {
    await using monitor = await ScriptedMonitor.start();
    const client = await QmpClient.connect(monitor.path);
    using events = client.listen('SHUTDOWN');
    monitor.event('SHUTDOWN', { guest: true, reason: 'guest-shutdown' });
    monitor.hangUp();
    await client.closed;
    expect(await events.next({ signal })).toMatchObject({ data: { reason: 'guest-shutdown' } });
    await expect(events.next({ signal })).rejects.toMatchObject({ name: 'QmpClosedError' });
  });

  test('ends with its scope: whoever still waits is told', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    const events = client.listen('STOP');
    const waiting = events.next({ signal });
    events[Symbol.dispose]();
    await expect(waiting).rejects.toThrow('has ended');
  });

  test('fails instead of dropping when nobody takes thousands of events', async () => {
    await using monitor = await ScriptedMonitor.start();
    await using client = await QmpClient.connect(monitor.path);
    using events = client.listen('RESET');
    using last = client.listen('STOP');
    for (let count = 0; count <= 10_000; count++) monitor.event('RESET');
    monitor.event('STOP');
    await last.next({ signal });
    const never = (_event: unknown) => false;
    await expect(events.next(never, { signal })).rejects.toMatchObject({
      name: 'QmpProtocolError',
    });
  });
});

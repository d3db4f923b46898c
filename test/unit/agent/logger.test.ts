import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { createLogger } from '../../../src/agent/logger.js';

function record() {
  const lines: string[] = [];
  const stream = { write: (line: string) => lines.push(line) };
  return { lines, stream, parsed: () => lines.map((line) => JSON.parse(line)) };
}

describe('the logger of the agent', () => {
  it('writes one JSON object a line with the host and the fields of its children', () => {
    const { stream, parsed } = record();
    const log = createLogger({ host: 'host-a' }, {}, stream).child({ migration_id: 'm1' });
    log.info({ total_ms: 12 }, 'migration succeeded');
    expect(parsed()).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
        host: 'host-a',
        migration_id: 'm1',
        total_ms: 12,
        message: 'migration succeeded',
      },
    ]);
  });

  it('never writes a key, a PSK or a ticket, down to the third level', () => {
    const { stream, lines } = record();
    const log = createLogger({ host: 'host-a' }, {}, stream);
    const secrets = { psk: 'hidden1', key: 'hidden2', ticket: 'hidden3' };
    log.info({ ...secrets, answer: { ...secrets, inner: secrets } }, 'x');
    log.child({ ticket: 'hidden4' }).warn({}, 'y');
    expect(lines.join('')).not.toContain('hidden');
    expect(lines.join('')).toContain('<redacted>');
  });

  it('writes from the level of DROVER_LOG on, and from info on without one', () => {
    const { stream, lines } = record();
    createLogger({ host: 'a' }, {}, stream).debug({}, 'x');
    createLogger({ host: 'a' }, { DROVER_LOG: 'warn' }, stream).info({}, 'x');
    createLogger({ host: 'a' }, { DROVER_LOG: 'silent' }, stream).error({}, 'x');
    expect(lines).toHaveLength(0);
    createLogger({ host: 'a' }, { DROVER_LOG: 'TRACE' }, stream).trace({}, 'x');
    expect(lines).toHaveLength(1);
  });

  it('refuses a level that does not exist', () => {
    expect(() => createLogger({ host: 'a' }, { DROVER_LOG: 'loud' })).toThrow(
      'DROVER_LOG is "loud"; it must be one of trace, debug, info, warn, error, silent.',
    );
  });

  it('lets nobody fill the disk with one message, and says how much was left out', () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const { stream, parsed } = record();
    const log = createLogger({ host: 'host-a' }, { DROVER_LOG: 'debug' }, stream);
    for (let i = 0; i < 10_000; i++)
      log.child({ i }).warn({ err: new Error('x') }, 'caller refused');
    log.info({}, 'another');
    for (let i = 0; i < 300; i++) log.debug({}, 'asked for');
    for (let i = 0; i < 300; i++) log.info({ audit: true }, 'call allowed');
    const count = (text: string) => parsed().filter(({ message }) => message === text).length;
    expect(count('caller refused')).toBe(200);
    expect(count('another')).toBe(1);
    expect([count('asked for'), count('call allowed')]).toEqual([300, 300]);
    vi.advanceTimersByTime(20_000);
    expect(parsed().at(-1)).toMatchObject({
      level: 'warn',
      message: 'lines were left out of the log',
      of: 'caller refused',
      left_out: 9_800,
    });
    log.warn({}, 'caller refused');
    expect(count('caller refused')).toBe(201);
  });
});

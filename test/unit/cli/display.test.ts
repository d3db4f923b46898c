import { describe, expect, it } from 'vitest';
import { openProgressDisplay } from '../../../src/cli/display.js';
import type { TextStream } from '../../../src/cli/style.js';
import type { Clock } from '../../../src/util/clock.js';
import { after, failed, migrationWith, mirroring, precopying } from '../../support/migrations.js';

/** A stream that keeps what is written to it. */
class FakeStream implements TextStream {
  readonly isTTY: boolean;
  columns: number;
  rows = 24;
  text = '';
  readonly #onResize = new Set<() => void>();

  constructor(isTTY: boolean, columns = 80) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string): void {
    this.text += text;
  }

  on(_event: 'resize', listener: () => void): void {
    this.#onResize.add(listener);
  }

  off(_event: 'resize', listener: () => void): void {
    this.#onResize.delete(listener);
  }

  resize(columns: number): void {
    this.columns = columns;
    for (const listener of this.#onResize) listener();
  }
}

/** What a terminal shows after these bytes: only the sequences that the display uses are known. */
function screen(bytes: string, columns: number): string[] {
  const rows: string[] = [''];
  let [row, column] = [0, 0];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC.
  for (const token of bytes.match(/\x1b\[\d*[A-Za-z]|[\s\S]/g) ?? []) {
    if (/^.\[\d+A$/s.test(token)) row -= Number(token.slice(2, -1));
    else if (token === '\r') column = 0;
    else if (token === '\n') [row, column] = [row + 1, 0];
    else if (token === '\x1b[K') rows[row] = (rows[row] ?? '').slice(0, column);
    else if (token === '\x1b[J') {
      rows.length = Math.max(row + 1, 1);
      rows[row] = (rows[row] ?? '').slice(0, column);
    } else if (!token.startsWith('\x1b')) {
      if (column === columns) [row, column] = [row + 1, 0];
      const text = (rows[row] ?? '').padEnd(column);
      rows[row] = text.slice(0, column) + token + text.slice(column + 1);
      column += 1;
    }
    if (row < 0) throw new Error('the display went above where it began');
    while (rows.length <= row) rows.push('');
  }
  return rows;
}

function fakeClock(): Clock & { ms: number } {
  return {
    ms: 0,
    nowMs() {
      return this.ms;
    },
    nowUs() {
      return this.ms * 1000;
    },
    date() {
      return after(this.ms);
    },
  };
}

describe('the progress display', () => {
  it('rewrites its rows in place on a terminal', () => {
    const stream = new FakeStream(true);
    const display = openProgressDisplay(stream, {}, fakeClock());
    display.show(precopying);
    display.show(mirroring);
    display.end();
    const rows = screen(`before\n${stream.text}`, 80);
    expect(rows[0]).toBe('before');
    expect(rows.filter((row) => row.startsWith('web1:'))).toHaveLength(1);
    expect(rows.filter((row) => row.startsWith('disk'))).toHaveLength(2);
    expect(rows.filter((row) => row.startsWith('RAM'))).toHaveLength(0);
  });

  it('leaves nothing on the screen when it is cleared', () => {
    const stream = new FakeStream(true);
    const display = openProgressDisplay(stream, {}, fakeClock());
    display.show(precopying);
    display.end({ clear: true });
    expect(screen(`before\n${stream.text}`, 80)).toEqual(['before', '']);
  });

  it('finds its first row again after the terminal was made narrower', () => {
    const stream = new FakeStream(true, 120);
    const display = openProgressDisplay(stream, {}, fakeClock());
    display.show(precopying);
    stream.text = '';
    stream.resize(60);
    // Title and three rows took two rows each at 60 columns.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC.
    const up = Number(/^\x1b\[(\d+)A/.exec(stream.text)?.[1]);
    expect(up).toBeGreaterThan(6);
    display.end();
  });

  it('writes nothing more after its end', () => {
    const stream = new FakeStream(true);
    const display = openProgressDisplay(stream, {}, fakeClock());
    display.end();
    display.show(precopying);
    expect(stream.text).toBe('');
  });

  it('colours nothing where NO_COLOR is set', () => {
    const stream = new FakeStream(true);
    const display = openProgressDisplay(stream, { NO_COLOR: '1' }, fakeClock());
    display.show(precopying);
    display.end();
    // biome-ignore lint/suspicious/noControlCharactersInRegex: sequences begin with ESC.
    expect(stream.text).not.toMatch(/\x1b\[\d+m/);
  });

  it.each([
    ['off a terminal', false, {}],
    ['on a dumb terminal', true, { TERM: 'dumb' }],
  ])('prints a line for each change of phase %s, without any sequence', (_where, isTTY, env) => {
    const stream = new FakeStream(isTTY);
    const clock = fakeClock();
    const display = openProgressDisplay(stream, env, clock);
    display.show(mirroring);
    clock.ms = 1000;
    display.show(precopying);
    clock.ms = 8000;
    display.show(failed);
    display.end();
    expect(`\n${stream.text}`).toMatchInlineSnapshot(`
      "
          0 ms  web1: mirror, 1 of 2 disks ready, 7.4 GiB of 11 GiB, 67 %, 412 MiB/s
           1 s  web1: precopy, RAM pass 2, 300 MiB left, dirtied 34 MiB/s, expected downtime 120 ms
           8 s  web1: failed
      "
    `);
    expect(stream.text).not.toContain('\x1b');
  });

  it('prints at most one line in 5 seconds within a phase', () => {
    const stream = new FakeStream(false);
    const clock = fakeClock();
    const display = openProgressDisplay(stream, {}, clock);
    for (clock.ms = 0; clock.ms < 20_000; clock.ms += 250) display.show(precopying);
    display.end();
    expect(stream.text.trimEnd().split('\n')).toHaveLength(4);
  });

  it('names the reason for doubt in a line', () => {
    const stream = new FakeStream(false);
    const display = openProgressDisplay(stream, {}, fakeClock());
    display.show(migrationWith({ state: 'STATE_IN_DOUBT', phase: 'PHASE_HANDOVER' }));
    expect(stream.text).toContain('in doubt: it is not known which host owns the guest');
  });

  it.each([true, false])('shows nothing that a terminal would obey (terminal: %s)', (isTTY) => {
    const stream = new FakeStream(isTTY);
    const display = openProgressDisplay(stream, { TERM: 'xterm' }, fakeClock());
    display.show(migrationWith({ domainName: 'web\u001b]0;owned\u0007\u009b31m' }));
    display.end();
    expect(stream.text).toContain('web');
    for (const obeyed of ['\u001b]', '\u0007', '\u009b']) expect(stream.text).not.toContain(obeyed);
  });
});

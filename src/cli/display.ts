import type { Migration } from '../gen/drover/v1/migration.js';
import { type Clock, systemClock } from '../util/clock.js';
import { hasEnded } from './figures.js';
import { render } from './progress.js';
import { progressKey, progressLine } from './progress-line.js';
import { printable } from './report.js';
import { canRedraw, PLAIN, styleOf, type TextStream, widthOf } from './style.js';

/** Shows how a migration goes. */
export interface ProgressDisplay {
  /** Shows the newest snapshot. */
  show(migration: Migration): void;
  /**
   * Ends the showing. With `clear`, what can be taken off the screen is. Repeating it is harmless.
   */
  end(options?: { readonly clear?: boolean }): void;
}

const REDRAW_INTERVAL_MS = 200;
const LINE_INTERVAL_MS = 5000;
/** Title, phases, note, RAM, "more disks" and the line below: not rows for disks. */
const OTHER_ROWS = 6;

/**
 * Opens a display on the stream: rows redrawn in place on a terminal, elsewhere one line for each
 * change of phase and otherwise one every 5 seconds.
 */
export function openProgressDisplay(
  stream: TextStream,
  env: Readonly<Record<string, string | undefined>>,
  clock: Clock = systemClock,
): ProgressDisplay {
  return canRedraw(stream, env) ? liveDisplay(stream, env, clock) : lineDisplay(stream, clock);
}

function liveDisplay(
  stream: TextStream,
  env: Readonly<Record<string, string | undefined>>,
  clock: Clock,
): ProgressDisplay {
  const style = styleOf(stream, env);
  let latest: Migration | undefined;
  let drawn: readonly string[] = [];
  let ended = false;

  const columns = () => Math.max(20, stream.columns || 80);
  // After the terminal was made narrower, a line drawn before takes several rows.
  const upToStart = () => {
    const rows = drawn.reduce(
      (n, line) => n + Math.max(1, Math.ceil(widthOf(line) / columns())),
      0,
    );
    return rows > 0 ? `\x1b[${rows}A\r` : '';
  };
  const draw = () => {
    if (!latest) return;
    const maxDisks = Math.max(1, (stream.rows || 24) - OTHER_ROWS);
    const page = { width: columns(), style, now: clock.date(), maxDisks };
    const lines = render(latest, page).map((line) => printable(line, style));
    stream.write(`${upToStart()}${lines.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J`);
    drawn = lines;
  };
  const timer = setInterval(draw, REDRAW_INTERVAL_MS);
  timer.unref();
  stream.on?.('resize', draw);
  return {
    show(migration) {
      if (ended) return;
      latest = migration;
      draw();
    },
    end({ clear = false } = {}) {
      if (ended) return;
      ended = true;
      clearInterval(timer);
      stream.off?.('resize', draw);
      if (clear) stream.write(`${upToStart()}\x1b[J`);
    },
  };
}

function lineDisplay(stream: TextStream, clock: Clock): ProgressDisplay {
  let lastKey = '';
  let lastMs = Number.NEGATIVE_INFINITY;
  return {
    show(migration) {
      const key = progressKey(migration);
      const dueMs = lastMs + LINE_INTERVAL_MS;
      if (key === lastKey && (clock.nowMs() < dueMs || hasEnded(migration))) return;
      lastKey = key;
      lastMs = clock.nowMs();
      stream.write(`${printable(progressLine(migration, clock.date()), PLAIN)}\n`);
    },
    end() {},
  };
}

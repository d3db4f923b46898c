import type { DiskProgress, Migration, RamProgress } from '../gen/drover/v1/migration.js';
import { formatDuration, formatSize } from '../util/bytes.js';
import {
  elapsedMs,
  guestPlace,
  hasEnded,
  PHASE_NAMES,
  percent,
  phaseName,
  share,
  shortName,
} from './figures.js';
import { type Paint, paint, type Style, shorten, widthOf } from './style.js';

/** What the picture depends on besides the migration. */
export interface RenderOptions {
  /** Columns of the terminal; no line is longer. */
  readonly width: number;
  readonly style: Style;
  /** For the time that has passed. */
  readonly now: Date;
  /** How many disks to show at most; the ones that are not ready come first. Default: all. */
  readonly maxDisks?: number;
}

/** One line of progress: a label, a bar, and figures that give way from the last to the first. */
interface Row {
  readonly label: string;
  readonly share: number;
  readonly percent: string;
  readonly figures: readonly string[];
  readonly done: boolean;
}

const BAR = { least: 6, most: 32 } as const;
const LABEL_MOST = 18;
/**
 * Room kept for figures, so that the bars do not twitch when a figure gets a digit more or less.
 */
const FIGURES_LEAST = [18, 11, 12] as const;

/**
 * Draws a migration as it stands: what moves where, its phases, one row for each disk and one for
 * RAM. Pure: the same arguments give the same lines, none longer than `width`.
 */
export function render(migration: Migration, options: RenderOptions): string[] {
  const { width, style } = options;
  const disks = pickDisks(migration.disks, options.maxDisks);
  const rows = disks.map((disk) => diskRow(disk, hasEnded(migration)));
  if (migration.ram) rows.push(ramRow(migration.ram));
  const lines = [
    titleLine(migration, options),
    phaseLine(migration, width, style),
    ...renderRows(rows, width, style),
  ];
  const hidden = migration.disks.length - disks.length;
  if (hidden > 0) lines.push(shorten(`and ${hidden} more disks`, width, style));
  if (migration.ram && !hasEnded(migration)) lines.push(ramNote(migration.ram, width, style));
  if (migration.state === 'STATE_IN_DOUBT') lines.push(doubtLine(migration, width, style));
  return lines;
}

function titleLine(migration: Migration, { width, style, now }: RenderOptions): string {
  const arrow = style.unicode ? '→' : '->';
  const time = formatDuration(elapsedMs(migration, now));
  const { domainName, sourceHost, destinationHost } = migration;
  const move = `${domainName}: ${sourceHost} ${arrow} ${destinationHost}`;
  const place = guestPlace(migration);
  const long = place ? `${move}, ${place}` : move;
  const room = width - time.length - 2;
  if (room < 12) return shorten(move, width, style);
  const left = long.length <= room ? long : shorten(move, room, style);
  return `${left.padEnd(room)}  ${paint(style, 'dim', time)}`;
}

function phaseLine(migration: Migration, width: number, style: Style): string {
  const current = PHASE_NAMES.indexOf(phaseName(migration));
  const marks = style.unicode ? ['✔', '▸', '·', '✘'] : ['x', '>', '.', '!'];
  const words = PHASE_NAMES.map((name, i) => {
    if (migration.state === 'STATE_SUCCEEDED' || i < current) {
      return paint(style, 'green', `${marks[0]} ${name}`);
    }
    if (i > current) return paint(style, 'dim', `${marks[2]} ${name}`);
    const [mark, how] = currentMark(migration, marks);
    return paint(style, how, `${mark} ${name}`);
  });
  const line = words.join('  ');
  if (widthOf(line) <= width) return line;
  const short =
    current < 0 ? shortName(migration.state) : `phase ${current + 1} of 6: ${PHASE_NAMES[current]}`;
  return shorten(short, width, style);
}

function currentMark(migration: Migration, marks: readonly string[]): [string, Paint] {
  switch (migration.state) {
    case 'STATE_FAILED':
    case 'STATE_IN_DOUBT':
      return [marks[3] ?? '', 'red'];
    case 'STATE_CANCELLED':
      return [marks[3] ?? '', 'yellow'];
    default:
      return [marks[1] ?? '', 'bold'];
  }
}

function diskRow(disk: DiskProgress, ended: boolean): Row {
  const rate = disk.bytesPerS > 0 && !ended ? `${formatSize(disk.bytesPerS)}/s` : '';
  const secondsLeft = disk.bytesPerS > 0 ? disk.remainingBytes / disk.bytesPerS : 0;
  const left = rate && !disk.ready ? `${formatDuration(Math.ceil(secondsLeft) * 1000)} left` : '';
  return {
    label: `disk ${disk.diskId}`,
    share: share(disk.transferredBytes, disk.totalBytes),
    percent: disk.ready ? 'ready' : percent(disk.transferredBytes, disk.totalBytes),
    figures: [`${formatSize(disk.transferredBytes)} of ${formatSize(disk.totalBytes)}`, rate, left],
    done: disk.ready,
  };
}

function ramRow(ram: RamProgress): Row {
  const sentOfPass = ram.totalBytes - ram.remainingBytes;
  return {
    label: ram.pass > 0 ? `RAM pass ${ram.pass}` : 'RAM',
    share: share(sentOfPass, ram.totalBytes),
    percent: percent(sentOfPass, ram.totalBytes),
    figures: [
      `${formatSize(ram.transferredBytes)} sent`,
      ram.bytesPerS > 0 && ram.remainingBytes > 0 ? `${formatSize(ram.bytesPerS)}/s` : '',
      ram.remainingBytes > 0 ? `${formatSize(ram.remainingBytes)} left` : '',
    ],
    done: ram.remainingBytes === 0,
  };
}

function ramNote(ram: RamProgress, width: number, style: Style): string {
  const parts = [`guest dirties ${formatSize(ram.dirtyBytesPerS)}/s`];
  if (ram.expectedDowntimeMs > 0) {
    parts.push(`expected downtime ${formatDuration(ram.expectedDowntimeMs)}`);
  }
  return paint(style, 'dim', shorten(parts.join(', '), width, style));
}

function doubtLine(migration: Migration, width: number, style: Style): string {
  const what = migration.failure?.message || 'It is not known which host owns the guest.';
  return paint(style, 'red', shorten(`in doubt: ${what}`, width, style));
}

/** All rows share their columns, so that bars and figures stand below each other. */
function renderRows(rows: readonly Row[], width: number, style: Style): string[] {
  const labelWidth = Math.min(LABEL_MOST, Math.max(0, ...rows.map((row) => row.label.length)));
  const percentWidth = Math.max(5, ...rows.map((row) => row.percent.length));
  const figureWidths = FIGURES_LEAST.map((least, i) =>
    Math.max(least, ...rows.map((row) => row.figures[i]?.length ?? 0)),
  );
  const fixed = labelWidth + percentWidth + 3;
  let shown = figureWidths.length;
  const figuresTake = () => figureWidths.slice(0, shown).reduce((sum, w) => sum + w + 2, 0);
  while (shown > 0 && fixed + BAR.least + figuresTake() > width) shown -= 1;
  const bar = Math.min(BAR.most, width - fixed - figuresTake());
  return rows.map((row) => {
    const parts = [shorten(row.label, labelWidth, style).padEnd(labelWidth)];
    if (bar >= BAR.least) parts.push(drawBar(row, bar, style));
    parts.push(row.percent.padStart(percentWidth));
    let line = parts.join(' ');
    figureWidths.slice(0, shown).forEach((w, i) => {
      line += `  ${(row.figures[i] ?? '').padStart(w)}`;
    });
    return widthOf(line) <= width
      ? line.trimEnd()
      : shorten(`${row.label} ${row.percent}`, width, style);
  });
}

function drawBar(row: Row, width: number, style: Style): string {
  const [full, empty] = style.unicode ? ['█', '░'] : ['#', '.'];
  const filled = Math.floor(row.share * width);
  return (
    paint(style, row.done ? 'green' : 'cyan', String(full).repeat(filled)) +
    paint(style, 'dim', String(empty).repeat(width - filled))
  );
}

function pickDisks(disks: readonly DiskProgress[], most = disks.length): readonly DiskProgress[] {
  if (disks.length <= most) return disks;
  const busyFirst = [...disks].sort((a, b) => Number(a.ready) - Number(b.ready));
  const picked = new Set(busyFirst.slice(0, Math.max(0, most)));
  return disks.filter((disk) => picked.has(disk));
}

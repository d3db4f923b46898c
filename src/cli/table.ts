import { type Style, shorten, widthOf } from './style.js';

/** One column of a table. */
export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  /** Numbers are aligned to the right. */
  readonly right?: boolean;
  /** May be cut where the table is wider than the terminal. */
  readonly cut?: boolean;
}

const GAP = '  ';
const NARROWEST = 8;

/**
 * Renders rows as aligned columns under their titles. Where a line would be longer than `width`,
 * the columns that may be cut give way, the widest first; `Infinity` cuts nothing.
 */
export function renderTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  width: number,
  style: Style,
): string[] {
  const cells = [
    columns.map((c) => c.title),
    ...rows.map((row) => columns.map((c) => c.value(row))),
  ];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => widthOf(line[i] ?? ''))));
  narrow(widths, columns, width);
  return cells.map((line) =>
    line
      .map((cell, i) =>
        align(shorten(cell, widths[i] ?? 0, style), widths[i] ?? 0, columns[i]?.right),
      )
      .join(GAP)
      .trimEnd(),
  );
}

/** Renders pairs as two aligned columns. Pairs without a value are left out. */
export function renderPairs(pairs: readonly (readonly [string, string])[]): string[] {
  const shown = pairs.filter(([, value]) => value !== '');
  const width = Math.max(0, ...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
}

function narrow<Row>(widths: number[], columns: readonly Column<Row>[], limit: number): void {
  const total = () => widths.reduce((sum, w) => sum + w, 0) + GAP.length * (widths.length - 1);
  while (total() > limit) {
    let widest = -1;
    columns.forEach((column, i) => {
      if (column.cut && (widths[i] ?? 0) > Math.max(NARROWEST, widths[widest] ?? 0)) widest = i;
    });
    if (widest < 0) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}

function align(cell: string, width: number, right: boolean | undefined): string {
  return right ? cell.padStart(width) : cell.padEnd(width);
}

import { describe, expect, it } from 'vitest';
import { PLAIN } from '../../../src/cli/style.js';
import { renderPairs, renderTable } from '../../../src/cli/table.js';

interface Row {
  readonly name: string;
  readonly size: string;
}

const columns = [
  { title: 'NAME', value: (row: Row) => row.name, cut: true },
  { title: 'SIZE', value: (row: Row) => row.size, right: true },
];
const rows: Row[] = [
  { name: 'web1', size: '1 GiB' },
  { name: 'a-domain-with-a-long-name', size: '10.5 GiB' },
];

describe('a table', () => {
  it('aligns its columns under their titles, numbers to the right', () => {
    expect(renderTable(columns, rows, 80, PLAIN)).toEqual([
      'NAME                           SIZE',
      'web1                          1 GiB',
      'a-domain-with-a-long-name  10.5 GiB',
    ]);
  });

  it('cuts the columns that may be cut to fit the terminal', () => {
    const lines = renderTable(columns, rows, 24, PLAIN);
    expect(lines.at(-1)).toBe('a-domain-with~  10.5 GiB');
    expect(Math.max(...lines.map((line) => line.length))).toBe(24);
  });

  it('cuts nothing where there is no terminal', () => {
    const lines = renderTable(columns, rows, Number.POSITIVE_INFINITY, PLAIN);
    expect(lines.at(-1)).toContain('a-domain-with-a-long-name');
  });

  it('leaves out pairs without a value', () => {
    const pairs = [['name', 'web1'] as const, ['kernel', ''] as const, ['cpu', 'max'] as const];
    expect(renderPairs(pairs)).toEqual(['name  web1', 'cpu   max']);
  });
});

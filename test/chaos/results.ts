import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Outcome } from './run.js';

/** One line of the results. */
export interface ResultLine extends Outcome {
  readonly cell: string;
  readonly point: string;
  readonly phase: string;
  readonly fault: string;
  readonly kind: string;
  readonly seed: string;
  readonly at: string;
}

/** The results of a run, one JSON object a line, so that a run can be gone on with. */
export class Results {
  readonly path: string;
  readonly lines: ResultLine[];

  /** @param keep What of earlier results is kept: nothing, all, or all that did not fail. */
  constructor(path: string, keep: 'nothing' | 'all' | 'good') {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    const earlier = keep === 'nothing' || !existsSync(path) ? [] : readResults(path);
    this.lines = earlier.filter(({ violations }) => keep === 'all' || violations.length === 0);
    writeFileSync(path, this.lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }

  has(cell: string): boolean {
    return this.lines.some((line) => line.cell === cell);
  }

  add(line: ResultLine): void {
    this.lines.push(line);
    appendFileSync(this.path, `${JSON.stringify(line)}\n`);
  }
}

/** Reads results; an unfinished line at the end is left out. */
export function readResults(path: string): ResultLine[] {
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line) as ResultLine);
}

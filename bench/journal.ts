import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { Figures } from './measure.js';
import type { MoverName } from './movers/mover.js';

/** One turn of one mover. */
export interface Turn {
  readonly scenario: string;
  readonly mover: MoverName;
  /** From 1 on; 0 only warms up. */
  readonly round: number;
  readonly at: string;
  /** Undefined when the move failed. */
  readonly figures?: Figures;
  readonly failure?: string;
}

/** What came out when a guest was ended and all that it had written was counted. */
export interface Verdict {
  readonly scenario: string;
  readonly mover: MoverName;
  readonly ackedWrites: number;
  readonly faults: readonly string[];
}

type Line = { readonly turn: Turn } | { readonly verdict: Verdict };

/** What a run has come to, one JSON line for each turn, so that a broken run can go on. */
export class Journal {
  readonly #path: string;
  readonly turns: Turn[] = [];
  readonly verdicts: Verdict[] = [];

  private constructor(path: string) {
    this.#path = path;
  }

  /** Goes on with the lines in the file, or, without `resume`, begins anew. */
  static open(path: string, resume: boolean): Journal {
    const journal = new Journal(path);
    mkdirSync(dirname(path), { recursive: true });
    lock(`${path}.pid`);
    if (!resume) rmSync(path, { force: true });
    if (!existsSync(path)) return journal;
    const text = readFileSync(path, 'utf8');
    // What comes next must not be glued to half of a line that a run left which was killed.
    if (text !== '' && !text.endsWith('\n')) appendFileSync(path, '\n');
    for (const line of text.split('\n')) journal.#take(line);
    return journal;
  }

  /** True when this turn need not be taken again. One that failed is. */
  has(scenario: string, mover: MoverName, round: number): boolean {
    return this.turns.some(
      (turn) =>
        turn.scenario === scenario &&
        turn.mover === mover &&
        turn.round === round &&
        turn.figures !== undefined,
    );
  }

  add(line: Line): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
    this.#keep(line);
  }

  // Half of a line is of a turn that is taken again.
  #take(text: string): void {
    try {
      this.#keep(JSON.parse(text) as Line);
    } catch {}
  }

  #keep(line: Line): void {
    if ('turn' in line) this.turns.push(line.turn);
    else this.verdicts.push(line.verdict);
  }
}

/** Two runs at once would measure each other, and mix their turns. */
function lock(path: string): void {
  const holder = existsSync(path) ? readFileSync(path, 'utf8') : '';
  if (holder !== '' && existsSync(`/proc/${holder}`)) {
    throw new Error(`The bench runs already, as process ${holder}.`);
  }
  writeFileSync(path, String(process.pid));
  process.once('exit', () => rmSync(path, { force: true }));
}

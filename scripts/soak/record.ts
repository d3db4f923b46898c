import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** One move that succeeded; its figures. */
export interface MoveRecord {
  readonly total_ms: number;
  readonly downtime_us: Readonly<Record<DowntimePart | 'total', number>>;
  readonly qemu_downtime_ms: number;
  readonly guest_gap_ms: number;
  readonly transferred_bytes: number;
}

/** What the downtime consists of, in its order; `safety` is of the whole and not added to it. */
export const DOWNTIME_PARTS = ['settle', 'ram', 'load', 'commit', 'resume', 'safety'] as const;
export type DowntimePart = (typeof DOWNTIME_PARTS)[number];

/** One guest from its start until everything it had written was counted. */
export interface LifeRecord {
  readonly kind: 'life';
  readonly started_at: string;
  readonly ended_at: string;
  readonly moves: readonly MoveRecord[];
  readonly acked_writes: number;
  readonly heartbeats: number;
  readonly lost_writes: number;
  /** Writes and heartbeats that came a second time. */
  readonly repeats: number;
  /** Numbers that never came. */
  readonly gaps: number;
  readonly faults: readonly string[];
  readonly agent_rss_bytes: Readonly<Record<string, number>>;
  /** The machine's load over the last five minutes. */
  readonly load: number;
}

/**
 * A move that failed, or whose outcome could not be found out. The life it was in is not judged.
 */
export interface FailureRecord {
  readonly kind: 'failure';
  readonly at: string;
  readonly reason: string;
}

interface SettingsRecord {
  readonly kind: 'settings';
  readonly digest: string;
}

type Line = SettingsRecord | LifeRecord | FailureRecord;

/**
 * What a long run has come to, one JSON line for each life, so that an interrupted run goes on
 * where it was. A life that was not judged to its end is not in it.
 */
export class SoakRecord {
  readonly #path: string;
  readonly lives: LifeRecord[] = [];
  readonly failures: FailureRecord[] = [];

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * Opens the record of runs with these settings, or begins one.
   *
   * @throws Error when the record is of a run with other settings
   */
  static open(path: string, settings: object): SoakRecord {
    const record = new SoakRecord(path);
    const digest = createHash('sha256').update(JSON.stringify(settings)).digest('hex');
    if (!existsSync(path)) {
      mkdirSync(dirname(path), { recursive: true });
      record.#append({ kind: 'settings', digest });
      return record;
    }
    // What comes next must not be glued to half of a line that a run left which was killed.
    if (!readFileSync(path, 'utf8').endsWith('\n')) appendFileSync(path, '\n');
    for (const line of readLines(path)) {
      if (line.kind === 'life') record.lives.push(line);
      else if (line.kind === 'failure') record.failures.push(line);
      else if (line.digest !== digest) {
        throw new Error(`${path} is of a run with other settings; begin anew with --fresh.`);
      }
    }
    return record;
  }

  /** Moves that were judged. */
  get moves(): readonly MoveRecord[] {
    return this.lives.flatMap(({ moves }) => moves);
  }

  add(line: LifeRecord | FailureRecord): void {
    this.#append(line);
    if (line.kind === 'life') this.lives.push(line);
    else this.failures.push(line);
  }

  #append(line: Line): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
  }
}

// Half of a line is of a life that is repeated.
function readLines(path: string): Line[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((text) => {
      try {
        return [JSON.parse(text) as Line];
      } catch {
        return [];
      }
    });
}

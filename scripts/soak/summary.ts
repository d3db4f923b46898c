import { arch, cpus, totalmem } from 'node:os';
import { type Spread, spreadOf, upperBoundOfZero } from '../../bench/statistics.js';
import { droverVersion } from '../../src/util/version.js';
import { DOWNTIME_PARTS, type LifeRecord, type MoveRecord, type SoakRecord } from './record.js';

/** The machine in words that say nothing of whose it is. */
export function describeMachine(): string {
  const memory = Math.round(totalmem() / 1024 ** 3);
  const node = process.versions.node;
  return `${cpus().length} cores (${arch()}), ${memory} GiB of memory, Node ${node}`;
}

/** Something counted, and what is proved where the count is zero. */
interface Counted {
  readonly count: number;
  readonly of_moves: number;
  /** With 95 % confidence it befalls less than this share of moves. Only beside a zero. */
  readonly upper_bound_percent?: number;
}

/** The whole run as one object; no path or name of the machine is in it. */
export function summarize(record: SoakRecord, what: { qemu: string; perLife: number }): object {
  const { lives, moves, failures } = record;
  const attempts = moves.length + failures.length;
  const sum = (of: (life: LifeRecord) => number) =>
    lives.reduce((total, life) => total + of(life), 0);
  const spread = (of: (move: MoveRecord) => number) => rounded(spreadOf(moves.map(of)));
  const part = (name: (typeof DOWNTIME_PARTS)[number]) =>
    [name, spread(({ downtime_us }) => downtime_us[name] / 1000)] as const;
  return {
    command: 'npm run soak',
    drover: droverVersion(),
    qemu: what.qemu,
    accelerator: 'tcg',
    machine: describeMachine(),
    load_average: rounded(spreadOf(lives.map(({ load }) => load))),
    from: lives[0]?.started_at,
    to: lives.at(-1)?.ended_at,
    moves: moves.length,
    guest_lives: lives.length,
    moves_per_life: what.perLife,
    failures: counted(failures.length, attempts),
    failure_reasons: failures.map(({ reason }) => reason),
    acked_writes: sum((life) => life.acked_writes),
    lost_writes: counted(
      sum(({ lost_writes }) => lost_writes),
      moves.length,
    ),
    heartbeats: sum(({ heartbeats }) => heartbeats),
    repeated_numbers: counted(
      sum(({ repeats }) => repeats),
      moves.length,
    ),
    missing_numbers: counted(
      sum(({ gaps }) => gaps),
      moves.length,
    ),
    other_faults: lives.flatMap(({ faults }) => faults),
    total_ms: spread(({ total_ms }) => total_ms),
    guest_gap_ms: spread(({ guest_gap_ms }) => guest_gap_ms),
    downtime_ms: spread(({ downtime_us }) => downtime_us.total / 1000),
    downtime_parts_ms: Object.fromEntries(DOWNTIME_PARTS.map(part)),
    qemu_downtime_ms: spread(({ qemu_downtime_ms }) => qemu_downtime_ms),
    transferred_mib: spread(({ transferred_bytes }) => transferred_bytes / 1024 ** 2),
    agent_rss_mib: rounded(
      spreadOf(
        lives.flatMap(({ agent_rss_bytes }) =>
          Object.values(agent_rss_bytes).map((bytes) => bytes / 1024 ** 2),
        ),
      ),
    ),
  };
}

function counted(count: number, moves: number): Counted {
  const bound = Math.ceil(upperBoundOfZero(moves) * 1e5) / 1e3;
  return { count, of_moves: moves, ...(count === 0 ? { upper_bound_percent: bound } : {}) };
}

function rounded({ median, min, max }: Spread): Spread {
  const tenth = (value: number) => Math.round(value * 10) / 10;
  return { median: tenth(median), min: tenth(min), max: tenth(max) };
}

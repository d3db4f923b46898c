import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { findOnPath, inspectBinary } from '../src/process/binary.js';
import { type DemoHost, DemoHosts } from './demo/hosts.js';
import { BUSY_DOMAIN, BusyGuest, type Move } from './demo/story.js';
import { cacheFolder, prepareLinuxGuest } from './guest/linux-guest.js';
import { type LifeRecord, type MoveRecord, SoakRecord } from './soak/record.js';
import { summarize } from './soak/summary.js';

/*
 * The long run: a busy guest is moved there and back many times between two agents, and everything
 * it was promised is counted. An interrupted run goes on where it was: what was judged is kept in
 * `.cache/soak/`. The first failure ends the run and keeps the evidence.
 */

const USAGE = `usage: soak [--moves 300] [--per-life 20] [--out docs/soak.json] [--fresh]
  --moves N     how many moves have to be judged in all
  --per-life N  how many moves one guest makes before it is ended and counted
  --out FILE    where the summary goes
  --fresh       forgets what an earlier run came to
`;

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));
const say = (line: string): void => void process.stderr.write(`${line}\n`);

interface Plan {
  readonly moves: number;
  readonly perLife: number;
  readonly out: string;
  readonly fresh: boolean;
}

function readPlan(): Plan {
  const { values } = parseArgs({
    options: {
      moves: { type: 'string', default: '300' },
      'per-life': { type: 'string', default: '20' },
      out: { type: 'string', default: join(CHECKOUT, 'docs/soak.json') },
      fresh: { type: 'boolean', default: false },
    },
  });
  const [moves, perLife] = [Number(values.moves), Number(values['per-life'])];
  if (!(Number.isInteger(moves) && moves > 0 && Number.isInteger(perLife) && perLife > 0)) {
    throw new Error(USAGE);
  }
  return { moves, perLife, out: values.out, fresh: values.fresh };
}

function recordOf({ migration: { summary }, guestGapMs }: Move): MoveRecord {
  const downtime = summary?.downtime;
  if (!summary || !downtime) throw new Error('The migration succeeded and has no summary.');
  return {
    total_ms: summary.totalTimeMs,
    downtime_us: {
      total: downtime.totalUs,
      settle: downtime.settleUs,
      ram: downtime.ramUs,
      load: downtime.loadUs,
      commit: downtime.commitUs,
      resume: downtime.resumeUs,
      safety: downtime.safetyUs,
    },
    qemu_downtime_ms: summary.qemuDowntimeMs,
    guest_gap_ms: guestGapMs,
    transferred_bytes: summary.transferredBytes,
  };
}

function rssBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) * 1024;
}

/** One guest: started, moved `count` times, ended, counted and removed. */
async function live(
  hosts: DemoHosts,
  count: number,
  onMove: (move: MoveRecord) => void,
): Promise<LifeRecord> {
  const startedAt = new Date();
  const [alpha, beta] = hosts.all as readonly [DemoHost, DemoHost];
  using guest = await BusyGuest.start(alpha);
  const moves: MoveRecord[] = [];
  while (moves.length < count) {
    const move = recordOf(await guest.move(guest.host === alpha ? beta : alpha));
    moves.push(move);
    onMove(move);
  }
  await guest.work(100);
  const verdict = await guest.judge();
  // What is wrong must stay where it is, to be looked at.
  if (verdict.faults.length === 0) await guest.remove(hosts.all);
  return {
    kind: 'life',
    started_at: startedAt.toISOString(),
    ended_at: new Date().toISOString(),
    moves,
    acked_writes: verdict.ackedWrites,
    heartbeats: verdict.heartbeats,
    lost_writes: verdict.lostWrites,
    repeats: verdict.repeats,
    gaps: verdict.gaps,
    faults: verdict.faults,
    agent_rss_bytes: Object.fromEntries(
      hosts.all.map(({ name, agentPid }) => [name, rssBytes(agentPid)]),
    ),
    load: loadavg()[1] ?? Number.NaN,
  };
}

/** Copies all that both hosts hold, sparsely: logs, definitions, images, serial consoles. */
async function keepEvidence(hosts: DemoHosts): Promise<string> {
  const stamp = new Date().toISOString().replaceAll(/[:.]/g, '-');
  const folder = join(cacheFolder(), 'soak', `evidence-${stamp}`);
  mkdirSync(folder, { recursive: true });
  await promisify(execFile)('cp', ['-a', '--sparse=always', `${hosts.folder}/.`, folder]).catch(
    // Sockets come and go while it copies; the rest is there.
    (error: Error) => say(error.message),
  );
  return folder;
}

function tellProgress(plan: Plan, record: SoakRecord): (move: MoveRecord) => void {
  const begun = performance.now();
  const doneBefore = record.moves.length;
  let done = doneBefore;
  return (move) => {
    done++;
    const perMove = (performance.now() - begun) / (done - doneBefore);
    const minutes = (perMove * (plan.moves - done)) / 60_000;
    const downtimeMs = move.downtime_us.total / 1000;
    say(
      `${String(done).padStart(4)}/${plan.moves}  total ${(move.total_ms / 1000).toFixed(1)} s` +
        `  downtime ${downtimeMs.toFixed(0)} ms  guest silent ${move.guest_gap_ms.toFixed(0)} ms` +
        `  about ${minutes.toFixed(0)} min left`,
    );
  };
}

/** Runs the lives that are missing. Answers false when something was wrong. */
async function run(plan: Plan, record: SoakRecord): Promise<boolean> {
  const onMove = tellProgress(plan, record);
  await using hosts = await DemoHosts.start(['alpha', 'beta'], prepareLinuxGuest());
  while (record.moves.length < plan.moves) {
    const count = Math.min(plan.perLife, plan.moves - record.moves.length);
    let faults: readonly string[];
    try {
      const life = await live(hosts, count, onMove);
      record.add(life);
      faults = life.faults;
    } catch (error) {
      // The life that was interrupted is repeated by the next run.
      if (hosts.interrupted) return false;
      const reason = error instanceof Error ? error.message : String(error);
      record.add({ kind: 'failure', at: new Date().toISOString(), reason });
      faults = [reason];
    }
    if (faults.length > 0) {
      for (const fault of faults) say(`WRONG: ${fault}`);
      say(`The evidence is in ${await keepEvidence(hosts)}.`);
      return false;
    }
    say(`      judged: ${record.moves.length} moves, nothing lost, nothing twice`);
  }
  return true;
}

async function soak(): Promise<boolean> {
  const plan = readPlan();
  const path = join(cacheFolder(), 'soak', 'lives.jsonl');
  if (plan.fresh) rmSync(path, { force: true });
  const qemuPath = await findOnPath('qemu-system-x86_64');
  if (qemuPath === undefined) throw new Error('There is no qemu-system-x86_64 on PATH.');
  const version = (await inspectBinary(qemuPath)).facts?.version;
  const qemu = version ? [version.major, version.minor, version.micro].join('.') : 'unknown';
  const { perLife } = plan;
  const record = SoakRecord.open(path, { domain: BUSY_DOMAIN, perLife, qemu });
  if (record.moves.length > 0) say(`going on after ${record.moves.length} judged moves`);
  const fine = record.moves.length >= plan.moves || (await run(plan, record));
  if (record.moves.length > 0) {
    const summary = summarize(record, { qemu, perLife });
    writeFileSync(plan.out, `${JSON.stringify(summary, undefined, 2)}\n`);
    say(`the summary is in ${plan.out}`);
  }
  return fine && record.failures.length === 0;
}

process.exitCode = (await soak()) ? 0 : 1;

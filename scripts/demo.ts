import { openProgressDisplay } from '../src/cli/display.js';
import { styleOf } from '../src/cli/style.js';
import { renderSummary } from '../src/cli/summary.js';
import { DemoHosts } from './demo/hosts.js';
import { BusyGuest, type Move, type Verdict } from './demo/story.js';
import { prepareLinuxGuest } from './guest/linux-guest.js';

/*
 * What Drover is for, in about a minute: a busy guest with two disks moves from one host to another
 * and back, live, and then everything it was promised is counted. The story goes to stderr; with
 * --json one object goes to stdout.
 */

const json = process.argv.includes('--json');
const style = styleOf(process.stderr, process.env);
const say = (line = ''): void => void process.stderr.write(`${line}\n`);

async function moveAndShow(guest: BusyGuest, hosts: DemoHosts, to: string): Promise<Move> {
  say(`\n$ drover migrate busy ${to} --watch`);
  const display = openProgressDisplay(process.stderr, process.env);
  const move = await guest.move(hosts.get(to), (migration) => display.show(migration));
  display.end({ clear: true });
  for (const line of renderSummary(move.migration, process.stderr.columns || 80, style)) say(line);
  say(`  the guest was silent for ${move.guestGapMs.toFixed(0)} ms (heartbeats on both hosts)`);
  return move;
}

function report(moves: readonly Move[], verdict: Verdict): object {
  const summaries = moves.map(({ migration }) => migration.summary);
  const sum = (values: (number | undefined)[]) =>
    values.reduce<number>((total, value) => total + (value ?? 0), 0);
  const moved = moves.length === 2 && moves.every(({ guestGapMs }) => Number.isFinite(guestGapMs));
  return {
    outcome: moved && verdict.faults.length === 0 ? 'succeeded' : 'failed',
    total_ms: sum(summaries.map((summary) => summary?.totalTimeMs)),
    downtime_ms: Math.max(...summaries.map((summary) => summary?.qemuDowntimeMs ?? Number.NaN)),
    guest_gap_ms: Math.round(Math.max(...moves.map(({ guestGapMs }) => guestGapMs))),
    transferred_bytes: sum(summaries.map((summary) => summary?.transferredBytes)),
    acked_writes: verdict.ackedWrites,
    lost_writes: verdict.lostWrites,
    double_run: verdict.doubleRun,
  };
}

function tell(verdict: Verdict): void {
  say('\nCounted, over both hosts:');
  say(
    `  acknowledged writes   ${verdict.ackedWrites}, missing on the disks: ${verdict.lostWrites}`,
  );
  say(`  heartbeats            ${verdict.heartbeats}, missing or twice: ${verdict.oddHeartbeats}`);
  say(`  ran on two hosts      ${verdict.doubleRun ? 'YES' : 'never'}`);
  for (const fault of verdict.faults) say(`  WRONG: ${fault}`);
  if (verdict.faults.length === 0) say('\nNothing was lost and nothing ran twice.');
}

async function demo(): Promise<boolean> {
  say('Two hosts on this machine, each with an agent of its own, talking gRPC with mTLS.');
  await using hosts = await DemoHosts.start(['alpha', 'beta'], prepareLinuxGuest());
  for (const { name, port } of hosts.all) say(`  ${name}  127.0.0.1:${port}`);
  say('\n$ drover create busy.yaml && drover start busy      (on alpha)');
  say('  a Linux guest: two disks (virtio-blk raw, virtio-scsi qcow2), durable numbered writes,');
  say('  memory being dirtied, a heartbeat every 10 ms; it boots under TCG, so have patience');
  using guest = await BusyGuest.start(hosts.get('alpha'));
  say('  it works');
  const moves = [await moveAndShow(guest, hosts, 'beta')];
  await guest.work(300);
  moves.push(await moveAndShow(guest, hosts, 'alpha'));
  await guest.work(300);
  const verdict = await guest.judge();
  tell(verdict);
  const result = report(moves, verdict);
  if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
  return verdict.faults.length === 0 && !JSON.stringify(result).includes('null');
}

/** What is printed instead of figures when there are none. */
const NOTHING = {
  outcome: 'failed',
  total_ms: null,
  downtime_ms: null,
  guest_gap_ms: null,
  transferred_bytes: null,
  acked_writes: null,
  lost_writes: null,
  double_run: null,
};

try {
  process.exitCode = (await demo()) ? 0 : 1;
} catch (error) {
  say(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`);
  if (json) process.stdout.write(`${JSON.stringify(NOTHING)}\n`);
  process.exitCode ||= 1;
}

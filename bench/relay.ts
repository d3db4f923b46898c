import { readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type DemoHost, DemoHosts } from '../scripts/demo/hosts.js';
import { BUSY_DOMAIN, BusyGuest } from '../scripts/demo/story.js';
import { prepareLinuxGuest } from '../scripts/guest/linux-guest.js';
import { describeMachine } from '../scripts/soak/summary.js';
import { type Migration, Migration_Transport } from '../src/gen/drover/v1/migration.js';
import { type LoopDelay, watchLoop } from './loop-probe.js';
import { cpuSeconds } from './stage/usage.js';

/*
 * What a migration by stream costs an agent: its memory, which must not grow with the guest's, its
 * CPU time, and how late the event loop of its main thread is. This process itself is measured
 * besides: on a machine without a free core everybody is late, and that is not the agents' doing.
 */

const SAMPLE_MS = 25;
const ANSWER_LIMIT_MS = 5_000;
const PROBE = fileURLToPath(new URL('loop-probe.ts', import.meta.url));
const MIB = 1024 ** 2;
const say = (line = ''): void => void process.stderr.write(`${line}\n`);

/**
 * A busy guest, small or large; most of the large one's memory is written and cannot be compressed.
 */
const GUESTS: Readonly<Record<string, string>> = {
  '192 MiB': BUSY_DOMAIN,
  '1 GiB': BUSY_DOMAIN.replace('192MiB', '1GiB').replace(
    'drover.ram_mib=24 drover.ram_rate=12',
    'drover.ram_mib=800 drover.ram_rate=24',
  ),
};

interface AgentCost {
  /** Resident memory before the move and the most during it, in bytes. */
  readonly rssBeforeBytes: number;
  readonly rssPeakBytes: number;
  /** Of the whole move, all threads. */
  readonly cpuSeconds: number;
  readonly loop: LoopDelay;
}

interface MoveCost {
  readonly guest: string;
  readonly transferredBytes: number;
  readonly totalMs: number;
  readonly source: AgentCost;
  readonly destination: AgentCost;
  /** A process that only takes samples. */
  readonly idle: LoopDelay;
}

function rssBytes(pid: number): number {
  // The second number is resident memory in pages.
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096;
}

/** The probes of both agents, reached by signal and file. */
class Probes {
  readonly #hosts: DemoHosts;
  readonly #seen = new Map<string, number>();

  constructor(hosts: DemoHosts) {
    this.#hosts = hosts;
  }

  /** The figures since the last call, by host. */
  async take(): Promise<Map<string, LoopDelay>> {
    for (const { agentPid } of this.#hosts.all) process.kill(agentPid, 'SIGUSR2');
    const taken = this.#hosts.all.map(async ({ name }) => [name, await this.#next(name)] as const);
    return new Map(await Promise.all(taken));
  }

  async #next(host: string): Promise<LoopDelay> {
    const seen = this.#seen.get(host) ?? 0;
    const path = probeFile(this.#hosts.folder, host);
    for (let waitedMs = 0; waitedMs < ANSWER_LIMIT_MS; waitedMs += SAMPLE_MS) {
      const lines = readFileSync(path, { encoding: 'utf8', flag: 'a+' }).trim().split('\n');
      const line = lines[seen];
      if (line) {
        this.#seen.set(host, seen + 1);
        return JSON.parse(line) as LoopDelay;
      }
      await delay(SAMPLE_MS);
    }
    throw new Error(`The agent of ${host} did not tell how late its event loop was.`);
  }
}

function probeFile(folder: string, host: string): string {
  return join(folder, `${host}.probe`);
}

async function measure(
  name: string,
  guest: BusyGuest,
  hosts: DemoHosts,
  probes: Probes,
): Promise<MoveCost> {
  const source = guest.host;
  const destination = hosts.all.find((host) => host !== source) as DemoHost;
  const before = new Map(hosts.all.map((host) => [host, rssBytes(host.agentPid)]));
  const peak = new Map(before);
  const cpuBefore = new Map(hosts.all.map((host) => [host, cpuSeconds(host.agentPid)]));
  const takeIdle = watchLoop();
  const sampling = setInterval(() => {
    for (const host of hosts.all) {
      peak.set(host, Math.max(peak.get(host) ?? 0, rssBytes(host.agentPid)));
    }
  }, SAMPLE_MS);
  // Only what happens while RAM is on its way counts for the loop; for memory the whole move does.
  let relaying: Promise<unknown> | undefined;
  let taken: Promise<{ loops: Map<string, LoopDelay>; idle: LoopDelay }> | undefined;
  const takeBoth = async () => ({ loops: await probes.take(), idle: takeIdle() });
  const stream = { transport: Migration_Transport.STREAM };
  const onChange = ({ phase }: Migration) => {
    if (phase === 'PHASE_PRECOPY') relaying ??= takeBoth();
    else if (relaying !== undefined) taken ??= relaying.then(takeBoth);
  };
  const { migration } = await guest.move(destination, onChange, stream);
  clearInterval(sampling);
  const { loops, idle } = (await taken) ?? fail('The migration had no precopy phase.');
  const costOf = (host: DemoHost): AgentCost => ({
    rssBeforeBytes: before.get(host) ?? Number.NaN,
    rssPeakBytes: peak.get(host) ?? Number.NaN,
    cpuSeconds: cpuSeconds(host.agentPid) - (cpuBefore.get(host) ?? Number.NaN),
    loop: loops.get(host.name) as LoopDelay,
  });
  return {
    guest: name,
    transferredBytes: migration.summary?.transferredBytes ?? Number.NaN,
    totalMs: migration.summary?.totalTimeMs ?? Number.NaN,
    source: costOf(source),
    destination: costOf(destination),
    idle,
  };
}

function fail(message: string): never {
  throw new Error(message);
}

function tell({ guest, transferredBytes, totalMs, source, destination, idle }: MoveCost): void {
  const mib = (bytes: number) => `${(bytes / MIB).toFixed(0)} MiB`;
  const loop = ({ p50Ms, p99Ms, maxMs, gcMaxMs, utilization }: LoopDelay) =>
    `late p50 ${p50Ms.toFixed(1)}, p99 ${p99Ms.toFixed(1)}, max ${maxMs.toFixed(1)} ms` +
    ` (garbage at most ${gcMaxMs.toFixed(1)}),` +
    ` busy ${(utilization * 100).toFixed(0)} %`;
  say(`${guest}: ${mib(transferredBytes)} sent in ${(totalMs / 1000).toFixed(1)} s`);
  for (const [side, cost] of Object.entries({ source, destination })) {
    const memory = `${mib(cost.rssBeforeBytes)} -> at most ${mib(cost.rssPeakBytes)}`;
    const cpu = `${cost.cpuSeconds.toFixed(2)} s of CPU`;
    say(`  ${side.padEnd(12)}${memory};  ${cpu};  ${loop(cost.loop)}`);
  }
  say(`  idle process: ${loop(idle)}`);
}

async function relay(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      moves: { type: 'string', default: '4' },
      first: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  });
  await using hosts = await DemoHosts.start(['alpha', 'beta'], prepareLinuxGuest(), {
    preload: PROBE,
    environment: (host, folder) => ({ DROVER_PROBE: probeFile(folder, host) }),
  });
  // With `--first` the agents need not wait for a core, as on a host that has one to spare: what is
  // late then is late by their own doing. It takes root.
  if (values.first) for (const { agentPid } of hosts.all) setPriority(agentPid, -20);
  const probes = new Probes(hosts);
  // The first signal makes a probe begin; it answers from the second one on.
  for (const { agentPid } of hosts.all) process.kill(agentPid, 'SIGUSR2');
  const costs: MoveCost[] = [];
  const faults: string[] = [];
  for (const [name, yaml] of Object.entries(GUESTS)) {
    using guest = await BusyGuest.start(hosts.get('alpha'), yaml);
    await guest.fillMemory();
    for (let move = 0; move < Number(values.moves); move++) {
      const cost = await measure(name, guest, hosts, probes);
      costs.push(cost);
      tell(cost);
      await guest.work(100);
    }
    faults.push(...(await guest.judge()).faults);
    await guest.remove(hosts.all);
  }
  for (const fault of faults) say(`WRONG: ${fault}`);
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ machine: describeMachine(), costs, faults })}\n`);
  }
  return faults.length === 0;
}

process.exitCode = (await relay()) ? 0 : 1;

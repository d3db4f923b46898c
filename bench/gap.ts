import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type DemoHost, DemoHosts } from '../scripts/demo/hosts.js';
import { BusyGuest } from '../scripts/demo/story.js';
import { prepareLinuxGuest } from '../scripts/guest/linux-guest.js';
import { describeMachine } from '../scripts/soak/summary.js';
import { Definitions } from '../src/domain/definitions.js';
import type { LaunchPlan } from '../src/domain/launch-arguments.js';
import { QmpClient } from '../src/qmp/client.js';
import { HandGuest } from './hand-guest.js';
import { type Spread, spreadOf } from './statistics.js';

/*
 * How long a guest is silent when Drover moves it, against QEMU driven by hand. Two guests of the
 * same spec, one in Drover's care, move in turn; the one whose turn it is not stands still.
 */

const BAR_MS = 60;
const say = (line = ''): void => void process.stderr.write(`${line}\n`);

/** The figures of one move, in milliseconds. */
interface Leg {
  readonly guestGapMs: number;
  readonly qemuDowntimeMs: number;
  readonly totalMs: number;
  readonly parts: Readonly<Record<string, number>>;
}

/** One of the two that are compared. */
interface Mover {
  readonly name: 'drover' | 'hand';
  pause(paused: boolean): Promise<void>;
  work(writes: number): Promise<void>;
  move(settings: { downtimeLimitMs: number }): Promise<Leg>;
}

function droverMover(guest: BusyGuest, hosts: DemoHosts, uuid: string): Mover {
  const [alpha, beta] = hosts.all as readonly [DemoHost, DemoHost];
  return {
    name: 'drover',
    work: (writes) => guest.work(writes),
    pause: async (paused) => {
      // The agent has the one monitor; the other is for people.
      const path = join(guest.host.runDirectory, uuid, 'rescue.sock');
      await using qmp = await QmpClient.connect(path);
      await qmp.execute(paused ? 'stop' : 'cont');
    },
    move: async (settings) => {
      const to = guest.host === alpha ? beta : alpha;
      const { migration, guestGapMs } = await guest.move(to, undefined, settings);
      const { downtime, qemuDowntimeMs = 0, totalTimeMs = 0 } = migration.summary ?? {};
      const ms = (us = 0) => us / 1000;
      return {
        guestGapMs,
        qemuDowntimeMs,
        totalMs: totalTimeMs,
        parts: {
          settle: ms(downtime?.settleUs),
          ram: ms(downtime?.ramUs),
          load: ms(downtime?.loadUs),
          commit: ms(downtime?.commitUs),
          resume: ms(downtime?.resumeUs),
        },
      };
    },
  };
}

function handMover(guest: HandGuest): Mover {
  return {
    name: 'hand',
    work: (writes) => guest.work(writes),
    pause: (paused) => guest.pause(paused),
    move: (settings) => guest.move(settings),
  };
}

/** The QEMU of a domain as its host has fixed it. */
async function planOf(host: DemoHost): Promise<LaunchPlan> {
  const fail = (path: string, error: unknown) => {
    throw new Error(`${path}: ${error}`);
  };
  const [stored] = await new Definitions(host.stateDirectory).readAll(fail);
  if (!stored?.definition) throw new Error(`${host.name} has no domain.`);
  return stored.definition;
}

async function turn(mover: Mover, downtimeLimitMs: number): Promise<Leg> {
  await mover.pause(false);
  await mover.work(300);
  const leg = await mover.move({ downtimeLimitMs });
  await mover.work(50);
  await mover.pause(true);
  return leg;
}

interface Scenario {
  readonly downtimeLimitMs: number;
  readonly drover: Figures;
  readonly hand: Figures;
  /** Drover's median less the other. */
  readonly differenceMs: number;
  readonly withinBar: boolean;
}

interface Figures {
  readonly guestGapMs: Spread;
  readonly qemuDowntimeMs: Spread;
  readonly totalMs: Spread;
  readonly partsMs: Readonly<Record<string, Spread>>;
  readonly legs: readonly Leg[];
}

function figuresOf(legs: readonly Leg[]): Figures {
  const names = Object.keys(legs[0]?.parts ?? {});
  return {
    guestGapMs: spreadOf(legs.map(({ guestGapMs }) => guestGapMs)),
    qemuDowntimeMs: spreadOf(legs.map(({ qemuDowntimeMs }) => qemuDowntimeMs)),
    totalMs: spreadOf(legs.map(({ totalMs }) => totalMs)),
    partsMs: Object.fromEntries(
      names.map((name) => [name, spreadOf(legs.map(({ parts }) => parts[name] ?? Number.NaN))]),
    ),
    legs,
  };
}

async function compare(
  movers: readonly Mover[],
  pairs: number,
  downtimeLimitMs: number,
): Promise<Scenario> {
  const legs: Record<Mover['name'], Leg[]> = { drover: [], hand: [] };
  for (let pair = 1; pair <= pairs; pair++) {
    for (const mover of movers) {
      const leg = await turn(mover, downtimeLimitMs);
      legs[mover.name].push(leg);
      say(`  pair ${pair}  ${mover.name.padEnd(6)}  ${leg.guestGapMs.toFixed(0)} ms`);
    }
  }
  const [drover, hand] = [figuresOf(legs.drover), figuresOf(legs.hand)];
  const differenceMs = drover.guestGapMs.median - hand.guestGapMs.median;
  return { downtimeLimitMs, drover, hand, differenceMs, withinBar: differenceMs <= BAR_MS };
}

function tell({ downtimeLimitMs, drover, hand, differenceMs, withinBar }: Scenario): void {
  const show = ({ median, min, max }: Spread) =>
    [median, min, max].map((value) => value.toFixed(1).padStart(8)).join('');
  const row = (what: string, spread: Spread) => say(`  ${what.padEnd(24)}${show(spread)}`);
  say(`\ndowntime limit ${downtimeLimitMs} ms; milliseconds: median, min, max`);
  for (const [name, figures] of Object.entries({ drover, hand })) {
    row(`${name}: guest silent`, figures.guestGapMs);
    for (const [part, spread] of Object.entries(figures.partsMs)) row(`  ${part}`, spread);
    row('  downtime by QEMU', figures.qemuDowntimeMs);
    row('  total time', figures.totalMs);
  }
  const verdict = withinBar ? 'within' : 'OVER';
  say(`  difference of medians ${differenceMs.toFixed(1)} ms, ${verdict} the bar of ${BAR_MS} ms`);
}

async function gap(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      pairs: { type: 'string', default: '5' },
      limits: { type: 'string', default: '300,30' },
      json: { type: 'boolean', default: false },
    },
  });
  const kernel = prepareLinuxGuest();
  await using hosts = await DemoHosts.start(['alpha', 'beta'], kernel);
  using busy = await BusyGuest.start(hosts.get('alpha'));
  const plan = await planOf(hosts.get('alpha'));
  const drover = droverMover(busy, hosts, plan.spec.uuid);
  await drover.pause(true);
  await using hand = await HandGuest.start(plan, kernel);
  const byHand = handMover(hand);
  await byHand.pause(true);
  say('one pair that does not count, so that all code is warm');
  await compare([drover, byHand], 1, 300);
  const scenarios: Scenario[] = [];
  for (const limit of values.limits.split(',')) {
    say(`\n${values.pairs} pairs with a downtime limit of ${limit} ms`);
    scenarios.push(await compare([drover, byHand], Number(values.pairs), Number(limit)));
  }
  for (const scenario of scenarios) tell(scenario);
  const faults = [...(await busy.judge()).faults, ...(await hand.judge())];
  for (const fault of faults) say(`WRONG: ${fault}`);
  if (values.json) {
    const result = { machine: describeMachine(), barMs: BAR_MS, scenarios, faults };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
  return faults.length === 0 && scenarios.every(({ withinBar }) => withinBar);
}

process.exitCode = (await gap()) ? 0 : 1;

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../scripts/guest/linux-guest.js';
import { Journal } from './journal.js';
import { MOVER_NAMES, type MoverName } from './movers/mover.js';
import { collectResults, publish } from './report/publish.js';
import { describeResults } from './report/table.js';
import { runScenario } from './run.js';
import { SCENARIOS, type Scenario } from './scenarios.js';
import { Stage } from './stage/stage.js';

/*
 * Drover beside QEMU driven by hand and beside libvirt, on two hosts with a shaped link between
 * them. A run that was broken off goes on with `--resume`; what it came to so far is in
 * `.cache/bench/`. A whole run is published: bench/results, the plot and the tables.
 */

const USAGE = `usage: bench [--quick] [--resume] [--scenarios a,b] [--movers a,b] [--repeats 7]
             [--publish] [--json]
  --quick      a few scenarios and repeats, in about three minutes; nothing is published
  --resume     goes on with the turns of the last run
  --scenarios  only these: ${SCENARIOS.map(({ name }) => name).join(', ')}
  --movers     only these: ${MOVER_NAMES.join(', ')}
  --repeats N  how often, where a scenario does not say otherwise
  --publish    publishes what is there, even though it is not the whole run
  --json       prints the results as JSON

Needs root, for network namespaces, and what npm run build makes.
`;

/** What shells say of a program that Ctrl-C has ended. */
const INTERRUPTED = 130;
const QUICK = {
  scenarios: ['idle', 'disk-writes', 'sparse'],
  movers: ['floor', 'direct', 'stream', 'libvirt'],
  repeats: 2,
} as const;
const say = (line: string): void => void process.stderr.write(`${line}\n`);

interface Plan {
  readonly scenarios: readonly Scenario[];
  readonly movers: readonly MoverName[] | undefined;
  readonly repeats: number;
  readonly journal: Journal;
  /** As it was typed, for the record. */
  readonly command: string;
  readonly publish: boolean;
  readonly json: boolean;
}

function readPlan(): Plan {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      scenarios: { type: 'string' },
      movers: { type: 'string' },
      repeats: { type: 'string' },
      resume: { type: 'boolean', default: false },
      publish: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  });
  const { quick } = values;
  const names: readonly string[] | undefined =
    values.scenarios?.split(',') ?? (quick ? QUICK.scenarios : undefined);
  const movers = values.movers?.split(',') ?? (quick ? QUICK.movers : undefined);
  const repeats = Number(values.repeats ?? (quick ? QUICK.repeats : 7));
  const unknown = [
    ...(names ?? []).filter((name) => !SCENARIOS.some((scenario) => scenario.name === name)),
    ...(movers ?? []).filter((name) => !MOVER_NAMES.some((mover) => mover === name)),
  ];
  if (unknown.length > 0 || !(Number.isInteger(repeats) && repeats > 0)) {
    throw new Error(`${unknown.join(', ')}\n${USAGE}`);
  }
  const file = join(cacheFolder(), 'bench', quick ? 'quick.jsonl' : 'turns.jsonl');
  const isWhole = !quick && names === undefined && movers === undefined;
  return {
    scenarios: SCENARIOS.filter(({ name }) => names?.includes(name) ?? true),
    movers: movers as readonly MoverName[] | undefined,
    repeats,
    journal: Journal.open(file, values.resume),
    command: ['npm run bench', ...(quick ? ['-- --quick'] : [])].join(' '),
    publish: isWhole || values.publish,
    json: values.json,
  };
}

async function bench(): Promise<boolean> {
  const plan = readPlan();
  const { journal, repeats, movers } = plan;
  let warmUp = true;
  for (const group of byLink(plan.scenarios)) {
    await using stage = await Stage.start(group.link);
    for (const scenario of group.scenarios) {
      await runScenario(stage, scenario, journal, { repeats, movers, warmUp, say });
      warmUp = false;
    }
  }
  const results = collectResults(journal, plan.command);
  say(describeResults(results));
  if (plan.publish) say(`published: ${publish(results)}`);
  if (plan.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  const failed = journal.turns.filter(({ failure }) => failure !== undefined);
  say(`${failed.length} of ${journal.turns.length} turns failed`);
  return failed.length === 0 && results.faults.length === 0;
}

/** Scenarios on the same link share the hosts. */
function byLink(scenarios: readonly Scenario[]) {
  const groups = new Map<string, { link: Scenario['link']; scenarios: Scenario[] }>();
  for (const scenario of scenarios) {
    const key = JSON.stringify(scenario.link);
    const group = groups.get(key) ?? { link: scenario.link, scenarios: [] };
    group.scenarios.push(scenario);
    groups.set(key, group);
  }
  return [...groups.values()];
}

// Whatever runs in the hosts is ended when this process exits.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(INTERRUPTED));
}
process.exitCode = (await bench()) ? 0 : 1;

import { setTimeout as delay } from 'node:timers/promises';
import type { Journal } from './journal.js';
import { judge } from './judge.js';
import { measureMove } from './measure.js';
import type { MovedGuest, Mover, MoverName } from './movers/mover.js';
import type { Scenario } from './scenarios.js';
import type { Stage } from './stage/stage.js';

/** How much of a scenario is run. */
export interface RunOptions {
  readonly repeats: number;
  readonly movers: readonly MoverName[] | undefined;
  /** True once, so that all code is warm. */
  readonly warmUp: boolean;
  readonly say: (line: string) => void;
}

const DEFAULT_BASELINE_MS = 500;
/** From so many repeats on a run is not a short one. */
const FULL_REPEATS = 7;
/** An emulated guest keeps one core busy while it starts. */
const STARTED_AT_ONCE = 2;

interface Team {
  readonly mover: Mover;
  guests: MovedGuest[];
  ackedWrites: number;
}

/** Runs all turns of a scenario that the journal does not have yet. */
export async function runScenario(
  stage: Stage,
  scenario: Scenario,
  journal: Journal,
  options: RunOptions,
): Promise<void> {
  const names = scenario.movers.filter((name) => options.movers?.includes(name) ?? true);
  const rounds = roundsOf(scenario, options.repeats);
  const last = Math.max(...names.map((name) => rounds(name)));
  await using teams = new Teams(stage, scenario, journal, options);
  for (let round = options.warmUp ? 0 : 1; round <= last; round++) {
    for (const name of names) {
      const isDue = round <= rounds(name) && !journal.has(scenario.name, name, round);
      if (isDue) await teams.turn(name, round);
    }
  }
}

/** How often each mover takes its turn. */
export function roundsOf(scenario: Scenario, repeats: number): (mover: MoverName) => number {
  const usual = Math.min(repeats, scenario.rounds ?? repeats);
  const { pairs } = scenario;
  // A short run is short in pairs too.
  const inPairs = repeats < FULL_REPEATS ? usual : (pairs?.rounds ?? usual);
  return (mover) => (pairs?.movers.includes(mover) ? Math.max(usual, inPairs) : usual);
}

/** The guests of all movers in one scenario; those whose turn it is not stand still. */
class Teams implements AsyncDisposable {
  readonly #stage: Stage;
  readonly #scenario: Scenario;
  readonly #journal: Journal;
  readonly #options: RunOptions;
  readonly #teams = new Map<MoverName, Team>();

  constructor(stage: Stage, scenario: Scenario, journal: Journal, options: RunOptions) {
    this.#stage = stage;
    this.#scenario = scenario;
    this.#journal = journal;
    this.#options = options;
  }

  async turn(name: MoverName, round: number): Promise<void> {
    const scenario = this.#scenario.name;
    const entry = { scenario, mover: name, round, at: new Date().toISOString() };
    try {
      const team = await this.#ready(name);
      const figures = await this.#move(team);
      this.#journal.add({ turn: { ...entry, figures } });
      const gap = Math.max(...figures.gapMs).toFixed(0);
      const wire = (figures.wireBytes / figures.necessaryBytes).toFixed(3);
      this.#tell(
        name,
        round,
        `${(figures.totalMs / 1000).toFixed(2)} s, silent ${gap} ms, wire ${wire}, load ${figures.load.toFixed(1)}`,
      );
      if (this.#scenario.fresh) await this.#end(name);
    } catch (error) {
      const failure = error instanceof Error ? error.message : String(error);
      this.#journal.add({ turn: { ...entry, failure } });
      this.#tell(name, round, `FAILED: ${failure}`);
      await this.#drop(name);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of [...this.#teams.keys()]) await this.#end(name);
  }

  async #ready(name: MoverName): Promise<Team> {
    const known = this.#teams.get(name);
    if (known) {
      for (const guest of known.guests) await guest.pause(false);
      return known;
    }
    const { guest: plan, guests = 1 } = this.#scenario;
    const team: Team = { mover: await this.#stage.mover(name), guests: [], ackedWrites: 0 };
    this.#teams.set(name, team);
    const startOne = async (index: number): Promise<void> => {
      const guest = await team.mover.start(plan, `${name}-${index}`);
      team.guests.push(guest);
      await guest.record.works(5);
      if (plan.ram) await guest.record.ramWritten();
      await guest.pause(true);
    };
    for (let index = 0; index < guests; index += STARTED_AT_ONCE) {
      const count = Math.min(STARTED_AT_ONCE, guests - index);
      await Promise.all(Array.from({ length: count }, (_, more) => startOne(index + more)));
    }
    for (const guest of team.guests) await guest.pause(false);
    return team;
  }

  async #move({ mover, guests }: Team) {
    const { guest, order = 'together', gentle = false } = this.#scenario;
    const baselineMs = this.#scenario.baselineMs ?? DEFAULT_BASELINE_MS;
    const plan = { guest, order, gentle, baselineMs };
    const figures = await measureMove(this.#stage.network, mover, guests, plan);
    for (const one of guests) await one.pause(true);
    const faults = guests.flatMap(({ record }) => record.faults);
    if (faults.length > 0) throw new Error(`WRONG: ${faults.join('; ')}`);
    return figures;
  }

  /** Ends the guests of a mover and counts what they had written. */
  async #end(name: MoverName): Promise<void> {
    const team = this.#teams.get(name);
    const { name: scenario, guest: plan } = this.#scenario;
    const faults: string[] = [];
    let ackedWrites = 0;
    for (const guest of team?.guests ?? []) {
      await guest.pause(false);
      await delay(50);
      await guest.stop();
      ackedWrites += guest.record.acks.length;
      faults.push(...(await judge(guest, plan)));
    }
    this.#journal.add({ verdict: { scenario, mover: name, ackedWrites, faults } });
    for (const fault of faults) this.#options.say(`WRONG: ${name}: ${fault}`);
    await this.#drop(name);
  }

  async #drop(name: MoverName): Promise<void> {
    const guests = this.#teams.get(name)?.guests ?? [];
    this.#teams.delete(name);
    for (const guest of guests) await guest[Symbol.asyncDispose]();
  }

  #tell(name: MoverName, round: number, text: string): void {
    const what = `${this.#scenario.name} ${round}`.padEnd(18);
    this.#options.say(`${what} ${name.padEnd(13)} ${text}`);
  }
}

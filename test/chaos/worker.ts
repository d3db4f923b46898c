import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FleetSetup } from './fleet.js';
import { cellId } from './plan.js';
import type { Results } from './results.js';
import { type Cell, type Outcome, Stage } from './run.js';
import { writeTrace } from './trace.js';

const OPEN_TRIES = 5;

/** Where runs leave what they have seen. */
export interface Places {
  readonly traces: string;
  readonly evidence: string;
}

/** Runs cells one after the other, on the same hosts as long as nothing goes wrong there. */
export class Worker implements AsyncDisposable {
  readonly #setup: FleetSetup;
  readonly #results: Results;
  readonly #places: Places;
  /** After so many runs the hosts are made anew. */
  readonly #runsPerStage: number;
  #stage: Stage | undefined;
  #runs = 0;

  constructor(setup: FleetSetup, results: Results, places: Places, runsPerStage = 40) {
    this.#setup = setup;
    this.#results = results;
    this.#places = places;
    this.#runsPerStage = runsPerStage;
  }

  /** Runs a cell and keeps what came of it; with violations, the evidence too. */
  async run(cell: Cell): Promise<Outcome> {
    if (this.#runs++ % this.#runsPerStage === 0) await this.#leave();
    const stage = await this.#enter();
    const source = stage.where;
    const startMs = performance.now();
    const outcome = await stage.strike(cell).catch((error: Error) => broken(error, startMs));
    const id = cellId(cell);
    const fileName = id.replace(/[^A-Za-z0-9]+/g, '-').replace(/-$/, '');
    const trace = writeTrace(this.#places.traces, fileName, stage, outcome.rescued);
    if (outcome.violations.length > 0) {
      const folder = join(this.#places.evidence, fileName);
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true });
      cpSync(trace, join(folder, 'trace.jsonl'));
      cpSync(stage.fleet.folder, join(folder, 'hosts'), { recursive: true, filter: isEvidence });
      writeFileSync(
        join(folder, 'outcome.json'),
        JSON.stringify({ id, source, ...outcome }, null, 2),
      );
    }
    if (outcome.violations.length > 0 || cell.fault.spoilsHosts) await this.#leave();
    this.#results.add({
      cell: id,
      point: cell.point?.id ?? '',
      phase: cell.point?.phase ?? 'whole',
      fault: cell.fault.name,
      kind: cell.fault.kind,
      seed: cell.seed,
      at: new Date().toISOString(),
      ...outcome,
    });
    return outcome;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leave();
  }

  async #enter(): Promise<Stage> {
    for (let tries = 1; !this.#stage; tries++) {
      try {
        this.#stage = await Stage.open(this.#setup);
      } catch (error) {
        // Somebody may have taken a port that was free just now.
        if (tries === OPEN_TRIES) throw error;
        console.log(`the hosts did not start; again: ${error}`);
      }
    }
    return this.#stage;
  }

  async #leave(): Promise<void> {
    const stage = this.#stage;
    this.#stage = undefined;
    await stage?.[Symbol.asyncDispose]();
  }
}

/** Sockets cannot be copied, and images are large and can be had again by a repetition. */
function isEvidence(path: string): boolean {
  return !/\.(sock|raw|qcow2|key)$/.test(path);
}

function broken(error: Error, startMs: number): Outcome {
  return {
    migrationId: '',
    struck: false,
    migration: 'unknown',
    reason: '',
    place: 'unknown',
    settleMs: 0,
    saysMs: -1,
    guestMs: -1,
    rescued: false,
    diskBytes: 0,
    ramBytes: 0,
    sends: 0,
    mirrors: 0,
    totalMs: Math.round(performance.now() - startMs),
    migrations: 1,
    violations: [`the driver: ${error.stack ?? error.message}`],
  };
}

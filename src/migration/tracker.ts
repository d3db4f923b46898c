import type { Clock } from '../util/clock.js';
import { MigrationError } from './errors.js';
import type { Migration } from './migration.js';
import { isTerminal } from './migration.js';
import { mayFollow, type Phase } from './phase.js';

/** What a migration starts with; everything else follows from what happens. */
export type TrackerSeed = Pick<
  Migration,
  'migrationId' | 'domainUuid' | 'domainName' | 'sourceHost' | 'destinationHost'
>;

/** Holds the present state of one migration and tells everyone who watches of each change. */
export class Tracker {
  readonly #clock: Clock;
  readonly #listeners = new Set<() => void>();
  readonly #onEnd: ((migration: Migration) => void)[] = [];
  #now: Migration;

  /** `past`: what an earlier life of the agent has left of it. */
  constructor(seed: TrackerSeed, clock: Clock, past: Partial<Migration> = {}) {
    this.#clock = clock;
    const { migrationId, domainUuid, domainName, sourceHost, destinationHost } = seed;
    this.#now = {
      migrationId,
      domainUuid,
      domainName,
      sourceHost,
      destinationHost,
      state: 'PENDING',
      phase: undefined,
      runningOn: 'SOURCE',
      cancellable: true,
      revision: 1,
      createTime: clock.date(),
      endTime: undefined,
      phaseTimes: [],
      disks: [],
      ram: undefined,
      summary: undefined,
      failure: undefined,
      transport: undefined,
      transportReason: '',
      ...past,
    };
  }

  get now(): Migration {
    return this.#now;
  }

  /** Publishes a change. Whoever reads slowly sees only the newest. */
  update(change: Partial<Migration>): void {
    this.#now = { ...this.#now, ...change, revision: this.#now.revision + 1 };
    for (const listener of this.#listeners) listener();
  }

  /**
   * Enters a phase.
   *
   * @throws MigrationError `INTERNAL` where the table of phases forbids the move.
   */
  enter(phase: Phase, change: Partial<Migration> = {}): void {
    if (!mayFollow(this.#now.phase, phase)) {
      throw new MigrationError('INTERNAL', `Phase ${phase} may not follow ${this.#now.phase}.`);
    }
    const at = this.#clock.date();
    const phaseTimes = this.#closePhase(at).concat({ phase, startTime: at, endTime: undefined });
    this.update({ ...change, state: 'RUNNING', phase, phaseTimes });
  }

  /** Ends the migration; nothing changes afterwards. */
  end(change: Partial<Migration> & Pick<Migration, 'state' | 'runningOn'>): void {
    if (isTerminal(this.#now.state)) return;
    const at = this.#clock.date();
    const phaseTimes = this.#closePhase(at);
    this.update({ ...change, cancellable: false, endTime: at, phaseTimes });
    for (const listener of this.#onEnd) listener(this.#now);
  }

  /** Tells of the end when it comes; never of one that has been. */
  onEnd(listener: (migration: Migration) => void): void {
    this.#onEnd.push(listener);
  }

  /** The migration now and after every change, until it has ended or the signal fires. */
  async *watch(signal: AbortSignal): AsyncGenerator<Migration, void, undefined> {
    let wake = () => {};
    const listener = () => wake();
    this.#listeners.add(listener);
    signal.addEventListener('abort', listener, { once: true });
    try {
      for (let seen = 0; !signal.aborted; ) {
        const now = this.#now;
        if (now.revision === seen) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        seen = now.revision;
        yield now;
        if (isTerminal(now.state)) return;
      }
    } finally {
      this.#listeners.delete(listener);
      signal.removeEventListener('abort', listener);
    }
  }

  #closePhase(at: Date): Migration['phaseTimes'] {
    return this.#now.phaseTimes.map((time) =>
      time.endTime === undefined ? { ...time, endTime: at } : time,
    );
  }
}

import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import { deferred } from '../../src/util/deferred.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import type { Reason } from '../../src/util/reasons.js';
import { GuestBook } from './book.js';
import type { Fault, Place, Strike } from './faults.js';
import { ChaosFleet, type FleetSetup, type HostName } from './fleet.js';
import type { Effect } from './host.js';
import { judge, LIFE_LIMIT_MS, mayBePaused, placeOf, revive, SOME_BYTES } from './judge.js';
import { leftovers, type Observation, observe } from './observe.js';
import { idOf, type Point } from './points.js';
import type { Traffic } from './proxy.js';
import { Random } from './random.js';

const REACH_LIMIT_MS = 30_000;
const WHOLE_RUN_LIMIT_MS = 90_000;
const GUEST_LIMIT_MS = 60_000;
const SETTLE_LIMIT_MS = 30_000;
const POLL_MS = 30;
const UNCONFIRMED: Reason = 'DOMAIN_BUSY';

/** One fault at one point, or at none for faults of a whole migration. */
export interface Cell {
  readonly point: Point | undefined;
  readonly fault: Fault;
  readonly seed: string;
  /** Instead of a point: so many bytes have gone this way. */
  readonly after?: { readonly traffic: Traffic; readonly bytes: number };
  /** Bytes per second; 0 or absent is unlimited. */
  readonly maxBandwidth?: number;
}

/** A domain that has just come moves on only when its source has confirmed that it let go. */
async function untilConfirmed(start: () => Promise<unknown>): Promise<void> {
  const limitMs = performance.now() + SETTLE_LIMIT_MS;
  for (;;) {
    try {
      await start();
      return;
    } catch (error) {
      const isEarly = error instanceof ReasonedError && error.reason === UNCONFIRMED;
      if (!isEarly || performance.now() > limitMs) throw error;
    }
    await delay(POLL_MS);
  }
}

/** Which migration is meant. */
type Move = Pick<Strike, 'source' | 'destination' | 'migrationId'>;

/** One event or record of the handover, or the end of an agent, which belongs to no migration. */
export interface Label {
  readonly host: string;
  readonly migrationId: string;
  readonly label: string;
}

/** What came of one run. */
export interface Outcome {
  readonly migrationId: string;
  /** False where the run ended without coming to the point. */
  readonly struck: boolean;
  /** The state of the migration, or `forgotten`. */
  readonly migration: string;
  readonly reason: string;
  readonly place: Place | 'unknown';
  /** From the repair until everything was as it should be. */
  readonly settleMs: number;
  /** From the repair until the source's agent could tell of the migration; -1 if it never could. */
  readonly saysMs: number;
  /** From the fault until the guest wrote again, wherever; -1 if it did not by itself. */
  readonly guestMs: number;
  /** True where a rescue process has done something. */
  readonly rescued: boolean;
  /** Of the first run's disks. */
  readonly diskBytes: number;
  /** How many mirror jobs were started. */
  readonly mirrors: number;
  /** Of the first run's RAM. */
  readonly ramBytes: number;
  /** How often QEMU was told to send RAM. */
  readonly sends: number;
  readonly totalMs: number;
  /** How often the guest moved or was to move. */
  readonly migrations: number;
  readonly violations: readonly string[];
}

/** Two hosts and one guest that is moved to and fro, and everything that is known of them. */
export class Stage implements AsyncDisposable {
  readonly fleet: ChaosFleet;
  readonly book: GuestBook;
  where: HostName = 'alpha';
  /** The effects of the present run. */
  effects: Effect[] = [];
  /** The migrations of the present run, and where each began. */
  readonly moves = new Map<string, HostName>();
  /** What the handover went through in the present run. */
  labels: Label[] = [];
  #hit = deferred<void>();
  /** Why the last migration could not be started, or followed to its end. */
  #problem = '';

  private constructor(fleet: ChaosFleet) {
    this.fleet = fleet;
    const folders = fleet.hosts.map(({ name, parts }) => [name, parts.setup.consoles] as const);
    this.book = new GuestBook(new Map(folders));
    fleet.onEffect = (effect) => {
      this.effects.push(effect);
      if (effect.armed) this.#hit.resolve();
    };
    fleet.onLabel = (host, migrationId, label) => this.labels.push({ host, migrationId, label });
  }

  static async open(setup: FleetSetup): Promise<Stage> {
    const stage = new Stage(await ChaosFleet.start(setup));
    try {
      await stage.fleet.run('alpha');
      await stage.book.grows('alpha', SOME_BYTES, LIFE_LIMIT_MS);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fleet[Symbol.asyncDispose]();
  }

  /** Moves the guest while the fault strikes, and judges what came of it. */
  async strike(cell: Cell): Promise<Outcome> {
    const { point, fault } = cell;
    const startMs = performance.now();
    const { fleet } = this;
    const source = this.where;
    const strike = this.#prepare(cell);
    await this.#order(cell, strike);
    const violations = this.book.read();
    const disks = fleet.way(source, 'nbd');
    const bytesBefore = disks.bytesForth;
    const ram = fleet.way(source, 'ram');
    const ramBefore = ram.bytesForth;
    const rescues = this.#rescues;
    const struck = await this.#reached(cell, strike);
    const settled = new AbortController();
    let guest: Promise<number> = Promise.resolve(-1);
    if (struck && (point || cell.after)) {
      await fault.inject?.(strike);
      guest = this.book.printsAnywhere(GUEST_LIMIT_MS, settled.signal);
      if (point) fleet.host(point.side === 'source' ? source : strike.destination).release();
      await fault.repair?.(strike);
      // Whoever ended an agent, its host starts it again.
      await Promise.all(fleet.hosts.map((host) => host.start()));
    }
    const end = await this.#settled(strike, mayBePaused(fault), violations);
    settled.abort();
    await Promise.all(fleet.hosts.map((host) => host.order([])));
    const { found } = end;
    const rescued = this.#rescues > rescues;
    const { migration } = found;
    const count = (command: string) =>
      this.effects.filter(({ name }) => name === `qmp ${command} before`).length;
    const mirrors = count('blockdev-mirror');
    const sends = count('migrate');
    const diskBytes = disks.bytesForth - bytesBefore;
    const ramBytes = ram.bytesForth - ramBefore;
    violations.push(...(await judge(this, found, source, struck ? fault : undefined)));
    if (!struck && !migration) violations.push(`it did not start: ${this.#problem}`);
    let migrations = 1;
    if (violations.length === 0) {
      violations.push(...(await revive(this, found, fault)));
      if (migration?.state !== 'STATE_SUCCEEDED' && violations.length === 0) {
        migrations++;
        violations.push(...(await this.#moveOn()));
      }
    }
    return {
      migrationId: strike.migrationId,
      struck,
      migration: migration?.state.replace('STATE_', '') ?? 'forgotten',
      reason: migration?.failure?.reason ?? '',
      place: placeOf(found, source),
      settleMs: Math.round(end.settleMs),
      saysMs: Math.round(end.saysMs),
      guestMs: Math.round(await guest),
      totalMs: Math.round(performance.now() - startMs),
      rescued,
      diskBytes,
      mirrors,
      ramBytes,
      sends,
      migrations,
      violations,
    };
  }

  #prepare({ point, fault, seed }: Cell): Strike {
    this.#begin();
    const source = this.where;
    return {
      fleet: this.fleet,
      source,
      destination: this.fleet.other(source),
      migrationId: randomUUID(),
      random: new Random(seed, point?.id ?? '', fault.name),
      stopped: [],
      guestMoved: () =>
        this.effects.some((effect) => idOf(effect, source).startsWith('destination qmp cont ')),
    };
  }

  async #order({ point, fault }: Cell, { source, destination, random }: Strike): Promise<void> {
    const action = fault.action?.(random) ?? { type: 'hold' };
    const arms = point ? [{ name: point.name, nth: point.nth, action }] : [];
    await Promise.all([
      this.fleet
        .host(source)
        .order(point?.side === 'source' ? arms : [], undefined, this.fleet.setup.ramBandwidth),
      this.fleet
        .host(destination)
        .order(point?.side === 'destination' ? arms : [], fault.disks?.(random)),
    ]);
  }

  /** Moves the guest without any fault; what is wrong then is told. */
  async #moveOn(): Promise<string[]> {
    const source = this.where;
    const migrationId = randomUUID();
    const started = this.effects.length;
    const move = { source, destination: this.fleet.other(source), migrationId };
    const last = await this.#migrate(move, 0);
    if (last?.state !== 'STATE_SUCCEEDED') {
      const why = last?.failure ? `${last.failure.reason}: ${last.failure.message}` : 'no word';
      return [`the next migration did not succeed: ${why} (effect ${started})`];
    }
    const violations: string[] = [];
    const { found } = await this.#settled(move, false, violations);
    violations.push(...(await judge(this, found, source, undefined)));
    return violations;
  }

  /** A run without faults, and its effects. */
  async happyRun(): Promise<readonly Effect[]> {
    this.#begin();
    await Promise.all(this.fleet.hosts.map((host) => host.order([])));
    const source = this.where;
    const faults = await this.#moveOn();
    if (faults.length > 0) throw new Error(`A run without faults failed: ${faults.join('; ')}`);
    // What the judge asks is none of the migration's.
    const end = this.effects.findLastIndex(
      (e) => idOf(e, source) === 'source call source-gone after 1',
    );
    return this.effects.slice(0, end + 1);
  }

  get #rescues(): number {
    return this.fleet.hosts.reduce((sum, host) => sum + host.rescues, 0);
  }

  #begin(): void {
    this.effects = [];
    this.labels = [];
    this.moves.clear();
    this.#problem = '';
    this.#hit = deferred();
  }

  /** Starts a migration and follows it; resolves with the last that was heard of it. */
  async #migrate(
    { source, destination: destinationHost, migrationId }: Move,
    maxBandwidthBytesPerS: number,
  ): Promise<Migration | undefined> {
    const { migrations } = this.fleet.host(source).client;
    this.moves.set(migrationId, source);
    let last: Migration | undefined;
    try {
      const domain = this.fleet.uuid;
      const request = { domain, destinationHost, migrationId, maxBandwidthBytesPerS };
      await untilConfirmed(() => migrations.startMigration(request));
      for await (const { migration } of migrations.watchMigration({ migrationId })) {
        last = migration ?? last;
      }
    } catch (error) {
      // The agent may have been killed; what became of the migration is asked for later.
      this.#problem = String(error);
    }
    return last;
  }

  /** Starts the migration; true when the fault may strike, or has struck all along. */
  async #reached({ point, after, maxBandwidth = 0 }: Cell, strike: Strike): Promise<boolean> {
    const limit = new AbortController();
    const wholeRun = point === undefined && after === undefined;
    const limitMs = wholeRun ? WHOLE_RUN_LIMIT_MS : REACH_LIMIT_MS;
    const late = delay(limitMs, false, { signal: limit.signal }).catch(() => false);
    const bytes = after && this.fleet.way(strike.source, after.traffic).passes(after.bytes);
    const hit = (bytes ?? this.#hit.promise).then(() => true);
    const ended = this.#migrate(strike, maxBandwidth).then(() => wholeRun);
    try {
      return await Promise.race([hit, ended, late]);
    } finally {
      limit.abort();
    }
  }

  /** Asks until all is as it should be, for half a minute at most. */
  async #settled(
    { source, migrationId }: Move,
    pauseIsFine: boolean,
    violations: string[],
  ): Promise<{ found: Observation; settleMs: number; saysMs: number }> {
    const startMs = performance.now();
    let saysMs = -1;
    for (;;) {
      const found = await observe(this.fleet, source, migrationId, pauseIsFine);
      const left = found.unsettled === '' ? await leftovers(this.fleet, found) : [];
      const settleMs = performance.now() - startMs;
      if (saysMs < 0 && found.migration) saysMs = settleMs;
      const isGood = found.unsettled === '' && left.length === 0;
      if (isGood) return { found, settleMs, saysMs };
      if (settleMs > SETTLE_LIMIT_MS) {
        if (found.unsettled !== '') violations.push(`not settled: ${found.unsettled}`);
        violations.push(...left.map((one) => `left over: ${one}`));
        return { found, settleMs, saysMs };
      }
      await delay(POLL_MS);
    }
  }
}

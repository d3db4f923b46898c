import { setTimeout as delay } from 'node:timers/promises';
import type { Domain, MigratableDomains } from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import type { Log } from '../util/log.js';
import { doubtOfJournal } from './doubts.js';
import { MigrationError } from './errors.js';
import type { Journal } from './journal.js';
import { readEnd, readSource } from './journal-reading.js';
import type { JournalFile, Journals } from './journals.js';
import type { Migration, MigrationManager, MigrationRequest } from './migration.js';
import { isTerminal } from './migration.js';
import { OutgoingMigration } from './outgoing-migration.js';
import type { PeerDirectory, PeerHeader, PeerState } from './peer.js';
import { NO_RECORD } from './peer.js';
import { assertSameParties, isOtherWay } from './peer-access.js';
import type { MigrationRegistry } from './registry.js';
import { validated } from './request.js';
import { Tracker } from './tracker.js';
import type { Traffic } from './traffic.js';

const HANDOVER_LIMIT_MS = 5_000;
/** The source of an arrival says that it has let go, or is asked within this time. */
const SETTLE_LIMIT_MS = 8_000;
const SETTLE_PAUSE_MS = 50;

/** What the source's half needs of the agent. */
export interface MigrationTools {
  readonly host: string;
  /** Of this boot of the host; empty where the kernel does not say. */
  readonly bootId: string;
  readonly domains: MigratableDomains;
  readonly journals: Journals;
  readonly peers: PeerDirectory;
  readonly registry: MigrationRegistry;
  readonly traffic: Traffic;
  readonly clock: Clock;
  readonly log: Log;
  /** Hears every event and record of each migration. */
  readonly observe?: ((migrationId: string, label: string) => void) | undefined;
}

/** A migration of which only the end is left. */
interface Past {
  readonly request: MigrationRequest;
  readonly tracker: Tracker;
  readonly state: PeerState;
}

/** The migrations that leave this host: accepts, runs, recovers, cancels them. */
export class Migrations implements MigrationManager {
  readonly #tools: MigrationTools;
  readonly #outgoing = new Map<string, OutgoingMigration>();
  readonly #past = new Map<string, Past>();
  readonly #starting = new Map<string, Promise<OutgoingMigration>>();
  readonly #stopping = new AbortController();
  #closing = false;

  constructor(tools: MigrationTools) {
    this.#tools = tools;
    tools.registry.onForget(({ migrationId: id }) => {
      this.#outgoing.delete(id);
      this.#past.delete(id);
    });
  }

  async start(asked: MigrationRequest): Promise<Migration> {
    const request = validated(asked);
    const { migrationId } = request;
    const known = this.#outgoing.get(migrationId) ?? this.#past.get(migrationId);
    if (known) return sameOrRefused(known, request);
    const starting = this.#starting.get(migrationId);
    if (starting) return sameOrRefused(await starting, request);
    const { host, registry } = this.#tools;
    if (this.#closing) throw new MigrationError('AGENT_UNREACHABLE', `The agent of ${host} stops.`);
    if (registry.has(migrationId)) throw idInUse(migrationId);
    if (request.destinationHost === host) {
      throw new MigrationError('SAME_HOST', `${request.domain} is on ${host} already.`);
    }
    const begun = this.#begin(request).finally(() => this.#starting.delete(migrationId));
    this.#starting.set(migrationId, begun);
    return (await begun).tracker.now;
  }

  get(migrationId: string): Migration {
    return this.#tools.registry.get(migrationId).now;
  }

  list(domain: string): readonly Migration[] {
    return this.#tools.registry.list(domain);
  }

  watch(migrationId: string, options: { readonly signal: AbortSignal }): AsyncIterable<Migration> {
    return this.#tools.registry.get(migrationId).watch(options.signal);
  }

  cancel(migrationId: string, caller: string): Migration {
    const { now } = this.#tools.registry.get(migrationId);
    const error = new MigrationError('CANCELLED_BY', `Cancelled by ${caller}.`, {
      facts: { caller },
    });
    this.#outgoing.get(migrationId)?.cancel(error);
    return this.#outgoing.get(migrationId)?.tracker.now ?? now;
  }

  /** The migration of this id that leaves this host, while it is known here. */
  find(migrationId: string): OutgoingMigration | undefined {
    return this.#outgoing.get(migrationId);
  }

  /**
   * What the journal of a migration that leaves this host says. `own` is what the peer's does; only
   * the destination of the migration is heard.
   *
   * @throws MigrationError `PERMISSION_DENIED` for a caller that is not the destination
   */
  async answer(header: PeerHeader, own: PeerState): Promise<PeerState> {
    const { migrationId } = header;
    const outgoing = this.#outgoing.get(migrationId);
    const known = outgoing ?? this.#past.get(migrationId);
    if (!known || isOtherWay(known.tracker.now, header)) return NO_RECORD;
    assertSameParties(known.tracker.now, header);
    await outgoing?.hear(own);
    return known.state;
  }

  /**
   * Goes on with what an earlier life of the agent began. Resolves when every guest here is as it
   * should be, as far as that can be known without a peer. Called once, before any call is served.
   */
  async recover(journals: readonly JournalFile[]): Promise<void> {
    const ours = journals.filter(({ side }) => side === 'source');
    await Promise.all(ours.map((journal) => this.#recover(journal)));
  }

  /**
   * Takes no more, cancels what has not been handed over and resolves when all of it has been
   * rolled back. A handover under way gets five seconds to end: what is cut off there is in doubt.
   */
  async close(): Promise<void> {
    this.#closing = true;
    const { host } = this.#tools;
    await Promise.allSettled(this.#starting.values());
    const going = [...this.#outgoing].filter(([, { tracker }]) => !isTerminal(tracker.now.state));
    for (const [id] of going) this.cancel(id, `the agent of ${host}, which stops`);
    const ends = (cancelled: boolean) =>
      going.filter(([, one]) => one.cancelled === cancelled).map(([, { done }]) => done);
    const late = delay(HANDOVER_LIMIT_MS, undefined, { ref: false });
    await Promise.race([Promise.all(ends(false)), late]);
    this.#stopping.abort(new MigrationError('CANCELLED_BY', 'The agent stops.'));
    await Promise.all(ends(true));
    for (const one of this.#outgoing.values()) await one.leave();
  }

  async #begin(request: MigrationRequest): Promise<OutgoingMigration> {
    const { host, domains, peers, journals } = this.#tools;
    const { migrationId, destinationHost } = request;
    peers.calls(destinationHost);
    const domain = domains.claim(request.domain, migrationId);
    let journal: Journal | undefined;
    try {
      await this.#assertSettled(domain);
      journal = await journals.create(
        {
          migrationId,
          side: 'source',
          domainUuid: domain.uuid,
          domainName: domain.name,
          sourceHost: host,
          destinationHost,
          epoch: domain.epoch,
          generation: domain.generation,
          attempt: 1,
        },
        { request: { ...request } },
      );
      await journal.append('STARTED');
      this.#tools.observe?.(migrationId, 'write STARTED');
    } catch (error) {
      await journal?.close();
      domains.unclaim(domain.uuid, migrationId);
      throw error;
    }
    const outgoing = this.#add(request, journal, {});
    outgoing.begin(domain);
    return outgoing;
  }

  /** A source that has not let go for good must never find that the guest has moved on. */
  async #assertSettled({ uuid, name }: Domain): Promise<void> {
    const { registry, host, clock } = this.#tools;
    const untilMs = clock.nowMs() + SETTLE_LIMIT_MS;
    for (;;) {
      const arrival = registry.unsettledArrival(uuid, host);
      if (!arrival) return;
      if (clock.nowMs() > untilMs) throw notYet(name, arrival);
      await delay(SETTLE_PAUSE_MS, undefined, { signal: this.#stopping.signal });
    }
  }

  async #recover(file: JournalFile): Promise<void> {
    const { domains, journals, log, registry, bootId, clock } = this.#tools;
    const { header, domainUuid, migrationId } = file;
    try {
      if (!header || file.health !== 'sound') throw doubtOfJournal(file);
      const request = header.details['request'] as MigrationRequest;
      const past = { createTime: new Date(header.createTime), ...readEnd({ ...file, header }) };
      const { record, rank } = readSource({ ...file, header });
      if (past.endTime && rank.epoch === header.epoch) {
        const tracker = new Tracker(header, clock, past);
        const state = { record, rank, journalId: header.journalId, failure: past.failure };
        this.#past.set(migrationId, { request, tracker, state });
        registry.add(tracker);
        return;
      }
      const journal = await journals.open(file.path);
      const outgoing = this.#add(request, journal, { createTime: past.createTime });
      await outgoing.recover(
        domains.recoverOutgoing(domainUuid, migrationId),
        header.bootId === bootId,
      );
    } catch (error) {
      log.error({ err: error, journal: file.path }, 'a migration could not be recovered');
      const { reason, message } = doubtOfJournal(file, error);
      const facts = { migration_id: migrationId };
      domains.doubt(domainUuid, { reason, message, facts }, migrationId);
    }
  }

  #add(request: MigrationRequest, journal: Journal, past: Partial<Migration>): OutgoingMigration {
    const { registry, log, peers, clock } = this.#tools;
    const { header } = journal;
    const tracker = new Tracker(header, clock, past);
    const outgoing = new OutgoingMigration({
      request,
      journal,
      tracker,
      calls: peers.calls(header.destinationHost),
      tools: this.#tools,
      log: log.child({
        migration_id: header.migrationId,
        side: 'source',
        domain: header.domainName,
        peer: header.destinationHost,
      }),
      stopping: this.#stopping.signal,
    });
    this.#outgoing.set(header.migrationId, outgoing);
    registry.add(tracker);
    return outgoing;
  }
}

function notYet(domain: string, { migrationId, sourceHost }: Migration): MigrationError {
  const message = `${domain} came from ${sourceHost}, which has not confirmed yet that it let go.`;
  return new MigrationError('DOMAIN_BUSY', message, { facts: { migration_id: migrationId } });
}

function sameOrRefused(
  { request, tracker }: Pick<Past, 'request' | 'tracker'>,
  asked: MigrationRequest,
): Migration {
  const keys = Object.keys(asked) as (keyof MigrationRequest)[];
  if (keys.every((key) => asked[key] === request[key])) return tracker.now;
  throw idInUse(asked.migrationId);
}

function idInUse(migrationId: string): MigrationError {
  return new MigrationError(
    'MIGRATION_EXISTS',
    `Migration ${migrationId} asks for something else.`,
    {
      facts: { migration_id: migrationId },
    },
  );
}

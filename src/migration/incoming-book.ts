import type { Destination } from './destination.js';
import type { DestinationContext } from './destination-context.js';
import { MigrationError } from './errors.js';
import { isTerminal } from './migration.js';
import { NO_RECORD, type PeerHeader, type PeerState } from './peer.js';
import {
  anotherRun,
  assertOfThisHost,
  assertSameParties,
  assertSameRun,
  isOtherWay,
  type Parties,
} from './peer-access.js';
import type { MigrationRegistry } from './registry.js';
import type { Tracker } from './tracker.js';

/** A migration that comes to this host. */
export interface Incoming {
  readonly header: PeerHeader;
  readonly tracker: Tracker;
  readonly context: DestinationContext;
  readonly flow: Destination;
  /** True once the source may have been told of this side's journal. */
  answered: boolean;
}

/** The end of a migration of which nothing else is left. */
interface Past {
  readonly parties: Parties;
  readonly state: PeerState;
}

/**
 * What this host knows of migrations that come or came to it. Everything that a call of another
 * agent gets, it gets from here, and no lookup by a header answers to anybody but the two hosts
 * between which the migration is.
 */
export class IncomingBook {
  readonly #host: string;
  readonly #registry: MigrationRegistry;
  readonly #incoming = new Map<string, Incoming>();
  readonly #past = new Map<string, Past>();

  constructor(host: string, registry: MigrationRegistry) {
    this.#host = host;
    this.#registry = registry;
    registry.onForget(({ migrationId: id }) => {
      this.#incoming.delete(id);
      this.#past.delete(id);
    });
  }

  get all(): readonly Incoming[] {
    return [...this.#incoming.values()];
  }

  /** Without any check: for this host's own use. */
  find(migrationId: string): Incoming | undefined {
    return this.#incoming.get(migrationId);
  }

  add(incoming: Incoming): void {
    this.#incoming.set(incoming.header.migrationId, incoming);
  }

  addPast(migrationId: string, past: Past): void {
    this.#past.set(migrationId, past);
  }

  /**
   * The migration that a call of its source is about, undefined where there is none of this id.
   * Whether it is the same run of it is for the caller to check.
   *
   * @throws MigrationError `PERMISSION_DENIED`
   */
  ofSource(header: PeerHeader): Incoming | undefined {
    assertOfThisHost(this.#host, header, 'destination');
    const incoming = this.#incoming.get(header.migrationId);
    this.#assertParty(header);
    return incoming;
  }

  /**
   * The same, for a call that needs it.
   *
   * @param ahead by how many attempts the source may be ahead
   * @throws MigrationError `PERMISSION_DENIED`, `MIGRATION_EXISTS`, `MIGRATION_NOT_FOUND`
   */
  need(header: PeerHeader, ahead = 0): Incoming {
    const incoming = this.ofSource(header);
    if (!incoming) {
      const message = 'This agent holds no such incoming migration.';
      const facts = { migration_id: header.migrationId };
      throw new MigrationError('MIGRATION_NOT_FOUND', message, { side: 'destination', facts });
    }
    assertSameRun(incoming, header, ahead);
    return incoming;
  }

  /**
   * What became of one of which only the end is left.
   *
   * @throws MigrationError `PERMISSION_DENIED`
   */
  pastOf(header: PeerHeader): PeerState | undefined {
    assertOfThisHost(this.#host, header, 'destination');
    this.#assertParty(header);
    return this.#past.get(header.migrationId)?.state;
  }

  /**
   * What this side's journal says, to either side; undefined where nothing of the kind comes here.
   *
   * @throws MigrationError `PERMISSION_DENIED`
   */
  stateFor(header: PeerHeader): PeerState | undefined {
    assertOfThisHost(this.#host, header, 'either');
    this.#assertParty(header);
    const { migrationId } = header;
    return this.#incoming.get(migrationId)?.context.state ?? this.#past.get(migrationId)?.state;
  }

  /** What its source gets to hear of one that this side has no journal of, or only its end. */
  endFor(header: PeerHeader): PeerState {
    return this.pastOf(header) ?? NO_RECORD;
  }

  /**
   * Makes sure that a new migration may have its id.
   *
   * @throws MigrationError `PERMISSION_DENIED`, `MIGRATION_EXISTS`
   */
  assertFree(header: PeerHeader): void {
    const { migrationId } = header;
    this.#assertParty(header);
    if (this.#registry.has(migrationId)) throw anotherRun(migrationId);
  }

  /**
   * Makes room where another host has taken this id and has got no further: its source was never
   * told of a journal here, so it can neither have committed nor ever have to ask.
   */
  makeRoom({ migrationId, sourceHost }: PeerHeader): void {
    const known = this.#incoming.get(migrationId);
    if (!known || known.answered || known.header.sourceHost === sourceHost) return;
    const over = known.context.settled && isTerminal(known.tracker.now.state);
    if (over) this.#registry.forget(migrationId);
  }

  // Those that leave this host are in the registry as well, with their hosts.
  #assertParty(header: PeerHeader): void {
    const { migrationId } = header;
    const past = this.#past.get(migrationId);
    if (past) assertSameParties(past.parties, header);
    const incoming = this.#incoming.get(migrationId);
    if (incoming) assertSameParties(incoming.header, header);
    if (!this.#registry.has(migrationId)) return;
    const { now } = this.#registry.get(migrationId);
    if (!isOtherWay(now, header)) assertSameParties(now, header);
  }
}

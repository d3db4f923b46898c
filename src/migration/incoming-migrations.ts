import type { ByteStream } from '../channel/types.js';
import type {
  DiskServerAddress,
  LaunchSpec,
  MigratableDomains,
  WaitOptions,
} from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import { untilAborted } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { Destination } from './destination.js';
import { DestinationContext } from './destination-context.js';
import { MigrationError } from './errors.js';
import type {
  CommitOutcome,
  PeerDirectory,
  PeerHandler,
  PeerHeader,
  PeerState,
  Prepared,
  Vote,
} from './peer.js';
import type { MigrationRegistry } from './registry.js';
import { SourcePeer } from './source-peer.js';
import { Tracker } from './tracker.js';

interface Incoming {
  readonly header: PeerHeader;
  readonly tracker: Tracker;
  readonly context: DestinationContext;
  readonly flow: Destination;
}

/** What the destination's half needs of the agent. */
export interface IncomingTools {
  readonly host: string;
  readonly domains: MigratableDomains;
  readonly peers: PeerDirectory;
  readonly registry: MigrationRegistry;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Answers the calls of other agents: finds the migration that a call belongs to and lets its flow
 * answer.
 */
export class IncomingMigrations implements PeerHandler {
  readonly #tools: IncomingTools;
  readonly #incoming = new Map<string, Incoming>();
  #closing = false;

  constructor(tools: IncomingTools) {
    this.#tools = tools;
    tools.registry.onForget((id) => this.#incoming.delete(id));
  }

  async prepare(header: PeerHeader, launchSpec: LaunchSpec): Promise<Prepared> {
    if (header.destinationHost !== this.#tools.host) {
      throw new MigrationError(
        'TLS_PEER_REJECTED',
        `This is ${this.#tools.host}, not ${header.destinationHost}.`,
      );
    }
    const known = this.#incoming.get(header.migrationId);
    const incoming = known ?? this.#begin(header, launchSpec);
    if (known) this.#check(known, { ...header, destinationJournalId: known.tracker.journalId });
    await incoming.flow.prepare(launchSpec);
    return { journalId: incoming.tracker.journalId, features: [] };
  }

  exportDisks(header: PeerHeader): Promise<DiskServerAddress> {
    return this.#find(header).flow.exportDisks();
  }

  async acceptRam(header: PeerHeader): Promise<{ readonly ticket: string }> {
    return { ticket: await this.#find(header).flow.acceptRam() };
  }

  async streamRam(
    ticket: string,
    caller: string,
    stream: ByteStream,
    options: WaitOptions,
  ): Promise<void> {
    for (const { context, flow, header } of this.#incoming.values()) {
      if (context.ticket !== ticket || header.sourceHost !== caller) continue;
      // A ticket opens one stream; whoever comes second is not the one it was given to.
      context.ticket = undefined;
      return await flow.streamRam(stream, options);
    }
    throw new MigrationError('PERMISSION_DENIED', 'The ticket of the RAM stream is not valid.');
  }

  async awaitLoaded(header: PeerHeader, options: WaitOptions): Promise<Vote> {
    const { flow, tracker } = this.#find(header);
    const guest = await untilAborted(flow.awaitLoaded(), options.signal);
    return { ...guest, journalId: tracker.journalId };
  }

  commit(header: PeerHeader, guest: { readonly paused: boolean }): Promise<CommitOutcome> {
    return this.#find(header).flow.commit(guest);
  }

  async revoke(header: PeerHeader): Promise<PeerState> {
    return await this.abort(header);
  }

  async abort(header: PeerHeader): Promise<PeerState> {
    const incoming = this.#incoming.get(header.migrationId);
    if (!incoming) return { record: 'NONE', journalId: '', failure: undefined };
    this.#check(incoming, header);
    await incoming.flow.abort();
    return stateOf(incoming);
  }

  async queryMigration(header: PeerHeader): Promise<PeerState> {
    const incoming = this.#incoming.get(header.migrationId);
    if (incoming) return stateOf(incoming);
    return this.#tools.registry.sourceState(header.migrationId);
  }

  async sourceGone(header: PeerHeader): Promise<PeerState> {
    return await this.queryMigration(header);
  }

  /** Gives up everything that has not been handed over yet. */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.allSettled([...this.#incoming.values()].map(({ flow }) => flow.abort()));
  }

  #begin(header: PeerHeader, launchSpec: LaunchSpec): Incoming {
    const { migrationId, domainUuid, sourceHost, destinationHost } = header;
    const { clock, peers, registry, domains } = this.#tools;
    // Nobody would remove it again.
    if (this.#closing) throw new MigrationError('PEER_UNREACHABLE', `${destinationHost} stops.`);
    if (registry.has(migrationId)) throw another(migrationId);
    const log = this.#tools.log.child({
      migration_id: migrationId,
      side: 'destination',
      domain: launchSpec.spec.name,
      peer: sourceHost,
    });
    const domainName = launchSpec.spec.name;
    const seed = { migrationId, domainUuid, domainName, sourceHost, destinationHost };
    const tracker = new Tracker({ ...seed }, clock);
    tracker.update({ cancellable: false });
    const source = new SourcePeer(header, peers.calls(sourceHost), log);
    const context = new DestinationContext(header, tracker, source, log);
    const incoming = { header, tracker, context, flow: new Destination(domains, source, context) };
    this.#incoming.set(migrationId, incoming);
    registry.add(tracker);
    return incoming;
  }

  #find(header: PeerHeader): Incoming {
    const incoming = this.#incoming.get(header.migrationId);
    if (!incoming) {
      throw new MigrationError(
        'MIGRATION_NOT_FOUND',
        'This agent holds no such incoming migration.',
        {
          side: 'destination',
          facts: { migration_id: header.migrationId },
        },
      );
    }
    this.#check(incoming, header);
    return incoming;
  }

  // A call that belongs to another life of either agent must not touch this one's migration.
  #check({ header: known, tracker }: Incoming, header: PeerHeader): void {
    const same =
      known.sourceHost === header.sourceHost &&
      known.sourceJournalId === header.sourceJournalId &&
      known.attempt === header.attempt &&
      known.domainUuid === header.domainUuid &&
      (header.destinationJournalId === tracker.journalId || header.destinationJournalId === '');
    if (same) return;
    throw another(header.migrationId);
  }
}

function stateOf({ context, tracker }: Incoming): PeerState {
  return { record: context.record, journalId: tracker.journalId, failure: context.failure };
}

function another(migrationId: string): MigrationError {
  return new MigrationError(
    'MIGRATION_EXISTS',
    'The call belongs to another run of this migration.',
    { side: 'destination', facts: { migration_id: migrationId } },
  );
}

import { setTimeout as delay } from 'node:timers/promises';
import type { Domain, MigratableDomains } from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import type { Log } from '../util/log.js';
import type { Reason } from '../util/reasons.js';
import { SourceContext } from './context.js';
import { MigrationPeer } from './destination-peer.js';
import { asReasoned, MigrationError, toFailure } from './errors.js';
import type { GiveUpPorts } from './give-up.js';
import type { Migration, MigrationManager, MigrationRequest } from './migration.js';
import { isTerminal } from './migration.js';
import type { PeerDirectory, PeerHeader } from './peer.js';
import type { MigrationRegistry } from './registry.js';
import { validated } from './request.js';
import { migrateToPeer } from './source.js';
import { Tracker } from './tracker.js';

const LONGEST_PAUSE_MS = 60_000;
const HANDOVER_LIMIT_MS = 5_000;

/** What the source's half needs of the agent. */
export interface MigrationTools {
  readonly host: string;
  /** Grows each time the agent starts. */
  readonly epoch: number;
  readonly domains: MigratableDomains;
  readonly peers: PeerDirectory;
  readonly registry: MigrationRegistry;
  readonly clock: Clock;
  readonly log: Log;
}

interface Outgoing {
  readonly request: MigrationRequest;
  readonly tracker: Tracker;
  readonly controller: AbortController;
  readonly log: Log;
}

/** The migrations that leave this host: accepts, runs, cancels them. */
export class Migrations implements MigrationManager {
  readonly #tools: MigrationTools;
  readonly #outgoing = new Map<string, Outgoing & { readonly done: Promise<void> }>();
  readonly #stopping = new AbortController();
  #closing = false;

  constructor(tools: MigrationTools) {
    this.#tools = tools;
    tools.registry.onForget((id) => this.#outgoing.delete(id));
  }

  async start(asked: MigrationRequest): Promise<Migration> {
    const request = validated(asked);
    const known = this.#outgoing.get(request.migrationId);
    if (known) return sameOrRefused(known, request);
    const { host, domains, peers, registry } = this.#tools;
    if (this.#closing) throw new MigrationError('AGENT_UNREACHABLE', `The agent of ${host} stops.`);
    if (registry.has(request.migrationId)) throw idInUse(request.migrationId);
    if (request.destinationHost === host) {
      throw new MigrationError('SAME_HOST', `${request.domain} is on ${host} already.`);
    }
    const calls = peers.calls(request.destinationHost);
    const domain = domains.claim(request.domain, request.migrationId);

    const outgoing = this.#outgoingOf(request, domain);
    const ports = this.#ports(outgoing, domain);
    const header = this.#header(outgoing, domain);
    const peer = new MigrationPeer(header, calls, ports.giveUp, outgoing.log);
    ports.context = this.#contextOf(outgoing);
    registry.add(outgoing.tracker, () => peer.giveUp.record);
    const done = this.#run(outgoing, domain, peer, ports.context);
    this.#outgoing.set(request.migrationId, { ...outgoing, done });
    return outgoing.tracker.now;
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
    const tracker = this.#tools.registry.get(migrationId);
    const outgoing = this.#outgoing.get(migrationId);
    if (outgoing && tracker.now.cancellable) {
      const error = new MigrationError('CANCELLED_BY', `Cancelled by ${caller}.`, {
        facts: { caller },
      });
      outgoing.controller.abort(error);
      tracker.update({ cancellable: false });
    }
    return tracker.now;
  }

  /**
   * Takes no more, cancels what has not been handed over and resolves when all of it has been
   * rolled back. A handover under way gets five seconds to end: what is cut off there is in doubt.
   */
  async close(): Promise<void> {
    this.#closing = true;
    const going = [...this.#outgoing].filter(([, { tracker }]) => !isTerminal(tracker.now.state));
    for (const [id] of going) this.cancel(id, `the agent of ${this.#tools.host}, which stops`);
    const ends = (cancelled: boolean) =>
      going
        .filter(([, { controller }]) => controller.signal.aborted === cancelled)
        .map(([, { done }]) => done);
    const late = delay(HANDOVER_LIMIT_MS, undefined, { ref: false });
    await Promise.race([Promise.all(ends(false)), late]);
    this.#stopping.abort(new MigrationError('CANCELLED_BY', 'The agent stops.'));
    await Promise.all(ends(true));
  }

  async #run(
    outgoing: Outgoing,
    domain: Domain,
    peer: MigrationPeer,
    context: SourceContext,
  ): Promise<void> {
    const { tracker, log } = outgoing;
    let failed: unknown;
    try {
      log.info({}, 'migration accepted');
      await migrateToPeer(domain, peer, context);
    } catch (error) {
      failed = error;
    }
    context.close();
    if (peer.giveUp.record === 'DONE') this.#moved(outgoing, peer);
    else await this.#rolledBack(outgoing, peer, failed);
    log.info({ state: tracker.now.state, summary: tracker.now.summary }, 'migration ended');
    if (peer.giveUp.record === 'DONE' && failed !== undefined) {
      log.error({ err: failed }, 'the guest has moved, but the clean-up here failed');
      await this.#retire(domain, peer.host, log);
    }
    this.#tools.domains.unclaim(domain.uuid, tracker.now.migrationId);
  }

  #moved({ tracker }: Outgoing, peer: MigrationPeer): void {
    if (!peer.giveUp.lost) {
      tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
      return;
    }
    const message = `${peer.host} took the guest and its QEMU ended; its images count.`;
    const options = {
      side: 'destination',
      hint: `Start the domain on ${peer.host}.`,
    } as const;
    const failure = toFailure(
      new MigrationError('DEST_QEMU_DIED', message, options),
      'destination',
      tracker.now.phase,
    );
    tracker.end({ state: 'FAILED', runningOn: 'NOWHERE', failure });
  }

  // The guest runs elsewhere, so there is nothing to give up: this is tried until it works.
  async #retire(domain: Domain, ownerHost: string, log: Log): Promise<void> {
    const { signal } = this.#stopping;
    for (let pauseMs = 1_000; !signal.aborted; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
      await delay(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
      try {
        return await domain.retire(ownerHost);
      } catch (error) {
        log.error({ err: error }, 'the clean-up here failed again');
      }
    }
  }

  async #rolledBack(outgoing: Outgoing, peer: MigrationPeer, error: unknown): Promise<void> {
    const { tracker, controller, log } = outgoing;
    if (peer.giveUp.record === 'STARTED') await peer.giveUp.fail().catch(() => {});
    const cancelled = controller.signal.aborted;
    const failure = chooseFailure(cancelled ? controller.signal.reason : error, peer, tracker);
    log.warn({ err: error, reason: failure.reason }, 'migration rolled back');
    const state = failure.reason === 'CANCELLED_BY' ? 'CANCELLED' : 'FAILED';
    const gone = failure.reason === 'SOURCE_QEMU_DIED' || failure.reason === 'GUEST_STOPPED';
    tracker.end({ state, runningOn: gone ? 'NOWHERE' : 'SOURCE', failure });
  }

  #outgoingOf(request: MigrationRequest, domain: Domain): Outgoing {
    const { migrationId, destinationHost } = request;
    const tracker = new Tracker(
      {
        migrationId,
        domainUuid: domain.uuid,
        domainName: domain.name,
        sourceHost: this.#tools.host,
        destinationHost,
      },
      this.#tools.clock,
    );
    const log = this.#tools.log.child({
      migration_id: migrationId,
      side: 'source',
      domain: domain.name,
      peer: destinationHost,
    });
    return { request, tracker, controller: new AbortController(), log };
  }

  #contextOf({ request, tracker, controller, log }: Outgoing): SourceContext {
    const { downtimeLimitMs, maxBandwidth } = request;
    const tools = { clock: this.#tools.clock, log };
    return new SourceContext(tracker, { downtimeLimitMs, maxBandwidth }, controller.signal, tools);
  }

  #header({ tracker }: Outgoing, domain: Domain): PeerHeader {
    const { migrationId, domainUuid, sourceHost, destinationHost } = tracker.now;
    return {
      migrationId,
      attempt: 1,
      domainUuid,
      epoch: this.#tools.epoch,
      generation: domain.generation,
      sourceHost,
      destinationHost,
      sourceJournalId: tracker.journalId,
      destinationJournalId: '',
    };
  }

  #ports({ tracker }: Outgoing, domain: Domain): { giveUp: GiveUpPorts; context?: SourceContext } {
    const { domains } = this.#tools;
    const { migrationId, destinationHost } = tracker.now;
    const ports: { giveUp: GiveUpPorts; context?: SourceContext } = {
      giveUp: {
        write: (record) =>
          domains.recordHandover(domain.uuid, record, migrationId, destinationHost),
        note: (moment) => ports.context?.note(moment),
        inDoubt: (error) => markDoubt(tracker, error),
        stopping: this.#stopping.signal,
      },
    };
    return ports;
  }
}

function sameOrRefused({ request, tracker }: Outgoing, asked: MigrationRequest): Migration {
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

/** What a source sees when the trouble is on the other side. */
const SYMPTOMS: readonly Reason[] = [
  'RAM_FAILED',
  'MIRROR_FAILED',
  'PEER_LOST',
  'PEER_UNREACHABLE',
  'STALLED',
  'INTERNAL',
];

// A stream that broke says less than what the destination itself gives as its reason.
function chooseFailure(error: unknown, peer: MigrationPeer, tracker: Tracker) {
  const own = toFailure(error, 'source', tracker.now.phase);
  const cause = peer.failure;
  if (cause && cause.reason !== 'CANCELLED_BY' && SYMPTOMS.includes(own.reason)) return cause;
  return own;
}

function markDoubt(tracker: Tracker, error: Error | undefined): void {
  if (error) {
    const failure = toFailure(asReasoned(error), 'source', 'handover');
    tracker.update({ state: 'IN_DOUBT', runningOn: 'UNKNOWN', failure });
  } else if (tracker.now.state === 'IN_DOUBT') {
    tracker.update({ state: 'RUNNING', runningOn: 'DESTINATION', failure: undefined });
  }
}

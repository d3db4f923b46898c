import { setTimeout as delay } from 'node:timers/promises';
import type { Transport } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from '../domain/launch-spec.js';
import type { DataProbe, MigratableDomains, WaitOptions } from '../domain/types.js';
import type { AuditLog } from '../util/audit.js';
import type { Clock } from '../util/clock.js';
import { untilAborted } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { Destination } from './destination.js';
import { DestinationContext } from './destination-context.js';
import { doubtOfJournal } from './doubts.js';
import { MigrationError } from './errors.js';
import { type Incoming, IncomingBook } from './incoming-book.js';
import { INGRESS_FEATURE, Ingress, type IngressAnswer, type IngressAsk } from './ingress.js';
import type { Journal } from './journal.js';
import { readDestination, readEnd } from './journal-reading.js';
import type { JournalFile, Journals } from './journals.js';
import { isTerminal, type Migration } from './migration.js';
import type {
  CommitOutcome,
  PeerDirectory,
  PeerHandler,
  PeerHeader,
  PeerState,
  Prepared,
  Vote,
} from './peer.js';
import { assertSameParties, assertSameRun } from './peer-access.js';
import { headerAtDestination } from './peer-header.js';
import { PrepareGate } from './prepare-gate.js';
import type { MigrationRegistry } from './registry.js';
import { SourcePeer } from './source-peer.js';
import { Tracker } from './tracker.js';
import {
  type LinkSettings,
  PREPARES_AT_ONCE,
  SWITCHOVER_GATE_MS,
  type Traffic,
} from './traffic.js';
import { Turns } from './turns.js';

const HANDOVER_LIMIT_MS = 5_000;

/** What the destination's half needs of the agent. */
export interface IncomingTools {
  readonly host: string;
  readonly domains: MigratableDomains;
  readonly journals: Journals;
  readonly peers: PeerDirectory;
  readonly registry: MigrationRegistry;
  /** Answers for a migration that leaves this host; `own` is what the caller's journal says. */
  readonly outgoing: { answer(header: PeerHeader, own: PeerState): Promise<PeerState> };
  readonly link: LinkSettings;
  readonly traffic: Traffic;
  readonly clock: Clock;
  readonly log: Log;
  readonly audit: AuditLog;
  /** Hears every event and record of each migration. */
  readonly observe?: ((migrationId: string, label: string) => void) | undefined;
}

/**
 * Answers the calls of other agents: finds the migration that a call belongs to and lets its flow
 * answer.
 */
export class IncomingMigrations implements PeerHandler {
  readonly #tools: IncomingTools;
  readonly #book: IncomingBook;
  readonly #ingress: Ingress;
  readonly #gate: PrepareGate;
  readonly #beginning = new Map<string, Promise<Incoming>>();
  #closing = false;

  constructor(tools: IncomingTools) {
    this.#tools = tools;
    this.#book = new IncomingBook(tools.host, tools.registry);
    this.#ingress = new Ingress(tools.link, tools.clock);
    const switching = () => tools.traffic.switching || this.#switching;
    const turns = new Turns(PREPARES_AT_ONCE, tools.clock, switching);
    this.#gate = new PrepareGate(tools.domains, turns);
  }

  async prepare(header: PeerHeader, launchSpec: LaunchSpec): Promise<Prepared> {
    const { migrationId } = header;
    this.#book.makeRoom(header);
    const known = this.#book.ofSource(header) ?? (await this.#beginning.get(migrationId));
    if (known) assertSameParties(known.header, header);
    const incoming = known ?? (await this.#begin(header, launchSpec));
    const { journalId } = incoming.context.state;
    assertSameRun(incoming, { ...header, destinationJournalId: journalId });
    await incoming.flow.prepare(launchSpec);
    incoming.answered = true;
    return { journalId, features: [INGRESS_FEATURE] };
  }

  async probeData(header: PeerHeader): Promise<DataProbe> {
    return await this.#book.need(header).flow.openProbe();
  }

  async exportDisks(header: PeerHeader, transport: Transport): Promise<DiskServerAddress> {
    return await this.#book.need(header).flow.exportDisks(transport);
  }

  async acceptRam(header: PeerHeader, transport: Transport): Promise<RamServerAddress> {
    const { flow, context } = this.#book.need(header, 1);
    context.attempt = header.attempt;
    return await flow.acceptRam(header.attempt, transport);
  }

  async shareIngress(header: PeerHeader, ask: IngressAsk): Promise<IngressAnswer> {
    const { context } = this.#book.need(header, 1);
    return this.#ingress.ask(header.migrationId, ask, () => context.coming);
  }

  async awaitLoaded(header: PeerHeader, options: WaitOptions): Promise<Vote> {
    const { flow, context } = this.#book.need(header);
    const guest = await untilAborted(flow.awaitLoaded(header.attempt), options.signal);
    return { ...guest, journalId: context.state.journalId };
  }

  async commit(header: PeerHeader, guest: { readonly paused: boolean }): Promise<CommitOutcome> {
    const past = this.#book.pastOf(header);
    if (!past) return await this.#book.need(header).flow.commit(guest);
    const refused = past.record === 'ABORTED';
    if (refused) return { outcome: 'REFUSED', failure: past.failure };
    return { outcome: 'RUNNING', cost: { journalUs: 0, handledUs: 0 } };
  }

  async revoke(header: PeerHeader): Promise<PeerState> {
    return await this.abort(header);
  }

  async abort(header: PeerHeader): Promise<PeerState> {
    const incoming = this.#book.ofSource(header);
    if (!incoming) return this.#book.endFor(header);
    assertSameRun(incoming, header, Number.POSITIVE_INFINITY);
    await incoming.flow.abort();
    return incoming.context.state;
  }

  async queryMigration(header: PeerHeader, own: PeerState): Promise<PeerState> {
    return this.#book.stateFor(header) ?? (await this.#tools.outgoing.answer(header, own));
  }

  async sourceGone(header: PeerHeader): Promise<PeerState> {
    const incoming = this.#book.ofSource(header);
    if (!incoming) return this.#book.endFor(header);
    assertSameRun(incoming, header);
    await incoming.context.sourceGone();
    return incoming.context.state;
  }

  /** The destination's half of this migration, while it is known here. */
  find(migrationId: string): DestinationContext | undefined {
    return this.#book.find(migrationId)?.context;
  }

  /** As `Migrations.recover`, for what was on its way in. */
  async recover(journals: readonly JournalFile[]): Promise<void> {
    const ours = journals.filter(({ side }) => side === 'destination');
    await Promise.all(ours.map((journal) => this.#recover(journal)));
  }

  /**
   * Gives up everything that has not been handed over. A guest that is loaded gets five seconds:
   * its source is about to commit, and would have to wait for the next life of this agent.
   */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.allSettled(this.#beginning.values());
    const late = delay(HANDOVER_LIMIT_MS, undefined, { ref: false });
    const ended = this.#book.all.map(async ({ context, flow }) => {
      await Promise.race([context.handedOver(), late]);
      await flow.abort();
      context.leave();
    });
    await Promise.allSettled(ended);
  }

  /** True while a guest is switched over to here, but not for long. */
  get #switching(): boolean {
    const sinceMs = this.#tools.clock.date().getTime() - SWITCHOVER_GATE_MS;
    return this.#book.all.some(({ tracker: { now } }) => {
      if (now.phase !== 'switchover' && now.phase !== 'handover') return false;
      const beganMs = now.phaseTimes.at(-1)?.startTime.getTime() ?? 0;
      return !isTerminal(now.state) && beganMs > sinceMs;
    });
  }

  #begin(header: PeerHeader, launchSpec: LaunchSpec): Promise<Incoming> {
    const { migrationId } = header;
    const begun = this.#create(header, launchSpec).finally(() =>
      this.#beginning.delete(migrationId),
    );
    this.#beginning.set(migrationId, begun);
    return begun;
  }

  async #create(header: PeerHeader, launchSpec: LaunchSpec): Promise<Incoming> {
    const { migrationId, domainUuid, sourceHost, destinationHost, epoch, attempt } = header;
    const { journals, domains, peers } = this.#tools;
    // Nobody would remove it again.
    if (this.#closing) throw new MigrationError('PEER_UNREACHABLE', `${destinationHost} stops.`);
    this.#book.assertFree(header);
    // A source that could never be asked must leave no record either.
    peers.calls(sourceHost);
    if (launchSpec.spec.uuid !== domainUuid) throw otherDomain(domainUuid);
    // From its first record on, a journal counts as word of where the domain is.
    const copy = { epoch, generation: header.generation + 1 };
    domains.assertMayArrive({ launchSpec, migrationId, attempt, sourceHost, ...copy });
    const journal = await journals.create(
      {
        migrationId,
        side: 'destination',
        domainUuid,
        domainName: launchSpec.spec.name,
        sourceHost,
        destinationHost,
        epoch,
        generation: header.generation + 1,
        attempt,
      },
      { sourceJournalId: header.sourceJournalId },
    );
    await journal.append('PREPARED');
    this.#tools.observe?.(migrationId, 'write PREPARED');
    const incoming = this.#add(journal, {});
    incoming.context.follow();
    return incoming;
  }

  #add(journal: Journal, past: Partial<Migration>): Incoming {
    const { clock, peers, registry, domains, observe } = this.#tools;
    const header = headerAtDestination(journal);
    const log = this.#tools.log.child({
      migration_id: header.migrationId,
      side: 'destination',
      domain: journal.header.domainName,
      peer: header.sourceHost,
    });
    const tracker = new Tracker(journal.header, clock, past);
    tracker.update({ cancellable: false });
    const source = new SourcePeer(header, peers.calls(header.sourceHost), log);
    const context = new DestinationContext({
      header,
      journal,
      tracker,
      source,
      domains,
      log,
      audit: this.#tools.audit,
      ...(observe ? { observe: (label) => observe(header.migrationId, label) } : {}),
    });
    const flow = new Destination(this.#gate, source, context);
    const incoming = { header, tracker, context, flow, answered: past.createTime !== undefined };
    this.#book.add(incoming);
    registry.add(tracker, () => context.settled);
    return incoming;
  }

  async #recover(file: JournalFile): Promise<void> {
    const { domains, journals, log, registry, clock } = this.#tools;
    const { header, domainUuid, migrationId } = file;
    try {
      if (!header || file.health !== 'sound') throw doubtOfJournal(file);
      const past = { createTime: new Date(header.createTime), ...readEnd({ ...file, header }) };
      const { record, rank } = readDestination({ ...file, header });
      if (past.endTime) {
        const { journalId } = header;
        const state = { record, rank, journalId, failure: past.failure };
        this.#book.addPast(migrationId, { parties: header, state });
        registry.add(new Tracker(header, clock, past));
        return;
      }
      const incoming = this.#add(await journals.open(file.path), { createTime: past.createTime });
      const options = { signal: new AbortController().signal };
      const found = await domains.recoverIncoming(domainUuid, migrationId, options);
      await incoming.flow.recover(found);
    } catch (error) {
      log.error({ err: error, journal: file.path }, 'a migration could not be recovered');
      const { reason, message } = doubtOfJournal(file, error);
      const facts = { migration_id: migrationId };
      domains.doubt(domainUuid, { reason, message, facts }, migrationId);
    }
  }
}

function otherDomain(domainUuid: string): MigrationError {
  const message = `The header is of the domain ${domainUuid}, the launch spec of another one.`;
  return new MigrationError('REQUEST_INVALID', message, { side: 'source' });
}

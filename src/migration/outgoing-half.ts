import { type Deferred, deferred } from '../util/deferred.js';
import type { Log } from '../util/log.js';
import { SourceContext } from './context.js';
import { Decider } from './decider.js';
import { MigrationPeer } from './destination-peer.js';
import { doubtOfSource, noteDoubt } from './doubts.js';
import { asReasoned, toFailure } from './errors.js';
import { GiveUp } from './give-up.js';
import { stepSource } from './handover.js';
import type { SourceEvent, SourceState } from './handover-types.js';
import type { Journal } from './journal.js';
import { readSource, readTransport } from './journal-reading.js';
import type { MigrationRequest } from './migration.js';
import type { MigrationTools } from './migrations.js';
import type { PeerCalls, PeerState } from './peer.js';
import { headerAtSource } from './peer-header.js';
import type { Phase } from './phase.js';
import { DEFAULT_WEIGHT } from './request.js';
import type { Tracker } from './tracker.js';
import type { TrafficMember } from './traffic-member.js';

/** What one migration that leaves this host is made of. */
export interface OutgoingParts {
  readonly request: MigrationRequest;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly calls: PeerCalls;
  readonly tools: MigrationTools;
  readonly log: Log;
  /** Fires when the agent stops. */
  readonly stopping: AbortSignal;
}

/** The source's half of one migration: what its flow, its recovery and its end all stand on. */
export class OutgoingHalf {
  readonly parts: OutgoingParts;
  readonly decider: Decider<SourceState, SourceEvent>;
  readonly giveUp: GiveUp;
  readonly peer: MigrationPeer;
  readonly context: SourceContext;
  readonly controller = new AbortController();
  /** Resolves when a person has said who has the guest. */
  readonly resolved: Deferred<void> = deferred();

  constructor(parts: OutgoingParts) {
    const { request, journal, tracker, calls, tools, log, stopping } = parts;
    this.parts = parts;
    this.decider = new Decider<SourceState, SourceEvent>({
      state: readSource(journal),
      step: stepSource,
      journal,
      standDown: () => tools.domains.standDown(tracker.now.domainUuid, this.decider.state.rank),
      observe: (label) => tools.observe?.(request.migrationId, label),
    });
    const ports = {
      note: (moment: 'committed' | 'resumed') => this.#note(moment),
      inDoubt: (error: Error | undefined) => this.markDoubt(error),
      stopping,
    };
    this.giveUp = new GiveUp(this.decider, calls, ports, log);
    this.peer = new MigrationPeer({
      header: headerAtSource(journal),
      calls,
      giveUp: this.giveUp,
      log,
      own: () => this.state,
      prepared: async (destinationJournalId) => {
        await this.decider.decide({ type: 'prepared' }, { destinationJournalId });
      },
    });
    const { downtimeLimitMs, maxBandwidth, gentle, transport: wish } = request;
    const safetyUs = () => this.decider.tookUs('SWITCHING') + this.giveUp.safetyUs;
    const record = (phase: Phase, details: object) => this.#record(phase, details);
    this.context = new SourceContext(
      tracker,
      { downtimeLimitMs, maxBandwidth, gentle },
      this.controller.signal,
      {
        clock: tools.clock,
        log,
        record,
        safetyUs,
        traffic: this.#member(),
        transport: { wish, known: readTransport(journal) },
      },
    );
  }

  /** What the journal says, for the peer. */
  get state(): PeerState {
    const { record, rank } = this.decider.state;
    const { journal, tracker } = this.parts;
    return { record, rank, journalId: journal.header.journalId, failure: tracker.now.failure };
  }

  /** True where the guest is the destination's for good. */
  get moved(): boolean {
    return this.decider.state.record === 'DONE';
  }

  /** What nobody may do with the domain follows from what the journal says. */
  holdDomain(): void {
    const { tools, journal, tracker, request } = this.parts;
    const { domainUuid, domainName } = tracker.now;
    const doubt = doubtOfSource(this.decider.state, {
      domainName,
      peer: this.peer.host,
      migrationId: request.migrationId,
      broken: journal.broken,
    });
    tools.domains.doubt(domainUuid, doubt, request.migrationId);
  }

  /** Tells everyone that the destination has been silent for too long, or has spoken again. */
  markDoubt(error: Error | undefined): void {
    const { tracker, log, journal } = this.parts;
    if (error) {
      log.error({ err: error }, 'the migration is in doubt');
      // Nobody knows when it ends: the others need not wait for it.
      this.context.close();
      const failure = toFailure(asReasoned(error), 'source', 'handover');
      tracker.update({ state: 'IN_DOUBT', runningOn: 'UNKNOWN', failure });
      noteDoubt(journal, failure.message, log);
    } else if (tracker.now.state === 'IN_DOUBT') {
      tracker.update({ state: 'RUNNING', runningOn: 'UNKNOWN', failure: undefined });
    }
  }

  #member(): TrafficMember {
    const { request, tracker, tools } = this.parts;
    const { migrationId, maxBandwidth } = request;
    // An agent that did not know of weights has written none.
    const weight = request.weight || DEFAULT_WEIGHT;
    const figures = () => tracker.now;
    return tools.traffic.member({ migrationId, weight, maxBandwidth, figures, ingress: this.peer });
  }

  async #record(phase: Phase, details: object): Promise<void> {
    const { journal } = this.parts;
    if (phase === 'mirror') await journal.append('MIRRORING', { ...details });
    else if (phase === 'precopy') await journal.append('RAM');
    else if (phase === 'switchover') {
      const { attempt } = this.peer;
      await this.decider.decide({ type: 'switching' }, { ...details, attempt });
    }
  }

  #note(moment: 'committed' | 'resumed'): void {
    this.context.note(moment);
    if (moment === 'committed') this.holdDomain();
  }
}

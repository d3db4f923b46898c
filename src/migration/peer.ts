import type { Transport } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from '../domain/launch-spec.js';
import type { DataProbe, LoadedGuest, WaitOptions } from '../domain/types.js';
import type { Failure } from './errors.js';
import type { HandoverRecord, Rank } from './handover-types.js';
import type { IngressAnswer, IngressAsk } from './ingress.js';

/** Names one migration in everything that the two agents say to each other. */
export interface PeerHeader {
  readonly migrationId: string;
  /** Counts the incoming QEMUs of the migration, from 1. */
  readonly attempt: number;
  readonly domainUuid: string;
  /** Of the copy on the source. */
  readonly epoch: number;
  /** The generation on the source; the destination's is one higher. */
  readonly generation: number;
  readonly sourceHost: string;
  readonly destinationHost: string;
  readonly sourceJournalId: string;
  /** Empty until `prepare` has answered. */
  readonly destinationJournalId: string;
}

/** What one side's journal says of a migration. */
export interface PeerState {
  readonly record: HandoverRecord | 'NONE';
  /** Of the copy on that side; zeros for `NONE`. */
  readonly rank: Rank;
  readonly journalId: string;
  readonly failure: Failure | undefined;
}

/** What the destination took for a commit, in microseconds. */
export interface CommitCost {
  /** To make its records durable while the guest was stopped. */
  readonly journalUs: number;
  /** From the call to the answer. */
  readonly handledUs: number;
}

/** What became of the guest after a commit. */
export type CommitOutcome =
  | { readonly outcome: 'RUNNING'; readonly cost: CommitCost }
  | { readonly outcome: 'REFUSED'; readonly failure: Failure | undefined }
  | { readonly outcome: 'OWNED_LOST' };

/** What a side says that has no journal of a migration. */
export const NO_RECORD: PeerState = {
  record: 'NONE',
  rank: { epoch: 0, generation: 0 },
  journalId: '',
  failure: undefined,
};

/** The destination's vote. */
export interface Vote extends LoadedGuest {
  readonly journalId: string;
}

/**
 * The destination as the source's agent calls it: plain requests, one for each call of PeerService.
 * All are idempotent. They throw ReasonedError; a lost peer is `PEER_UNREACHABLE`.
 */
export interface PeerCalls {
  prepare(header: PeerHeader, launchSpec: LaunchSpec, options: WaitOptions): Promise<Prepared>;
  probeData(header: PeerHeader, options: WaitOptions): Promise<DataProbe>;
  exportDisks(
    header: PeerHeader,
    transport: Transport,
    options: WaitOptions,
  ): Promise<DiskServerAddress>;
  acceptRam(
    header: PeerHeader,
    transport: Transport,
    options: WaitOptions,
  ): Promise<RamServerAddress>;
  shareIngress(header: PeerHeader, ask: IngressAsk, options: WaitOptions): Promise<IngressAnswer>;
  /** One long call; throws `STALLED` when the peer's time is up and it should be asked again. */
  awaitLoaded(header: PeerHeader, options: WaitOptions): Promise<Vote>;
  commit(
    header: PeerHeader,
    guest: { readonly paused: boolean },
    options: WaitOptions,
  ): Promise<CommitOutcome>;
  revoke(header: PeerHeader, options: WaitOptions): Promise<PeerState>;
  abort(header: PeerHeader, options: WaitOptions): Promise<PeerState>;
  /** `own` is what the caller's journal says. */
  queryMigration(header: PeerHeader, own: PeerState, options: WaitOptions): Promise<PeerState>;
  sourceGone(header: PeerHeader, options: WaitOptions): Promise<PeerState>;
}

/** Answer to `prepare`. */
export interface Prepared {
  readonly journalId: string;
  readonly features: readonly string[];
}

/** Finds the agents of other hosts. */
export interface PeerDirectory {
  /** @throws ReasonedError `PEER_NOT_FOUND` */
  calls(host: string): PeerCalls;
}

/**
 * What PeerService asks of the agent: the destination's half, and the answers about the source's.
 */
export interface PeerHandler {
  prepare(header: PeerHeader, launchSpec: LaunchSpec): Promise<Prepared>;
  probeData(header: PeerHeader): Promise<DataProbe>;
  exportDisks(header: PeerHeader, transport: Transport): Promise<DiskServerAddress>;
  acceptRam(header: PeerHeader, transport: Transport): Promise<RamServerAddress>;
  /** What of this host's ingress the migration may use. */
  shareIngress(header: PeerHeader, ask: IngressAsk): Promise<IngressAnswer>;
  awaitLoaded(header: PeerHeader, options: WaitOptions): Promise<Vote>;
  commit(header: PeerHeader, guest: { readonly paused: boolean }): Promise<CommitOutcome>;
  revoke(header: PeerHeader): Promise<PeerState>;
  abort(header: PeerHeader): Promise<PeerState>;
  /**
   * Answered for migrations that this agent sends as well as for those it receives. `own` is what
   * the caller's journal says.
   */
  queryMigration(header: PeerHeader, own: PeerState): Promise<PeerState>;
  sourceGone(header: PeerHeader): Promise<PeerState>;
}

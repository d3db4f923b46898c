/*
 * The words of the handover: what journals say, what agents learn, what they must do, and who may
 * run the guest then. The decisions are in handover.ts.
 */

/** A record of the source's journal that changes who may run the guest. */
export type SourceRecord =
  | 'STARTED'
  | 'DST_PREPARED'
  | 'SWITCHING'
  | 'COMMITTED'
  | 'DONE'
  | 'ABORTED'
  | 'RECLAIMED'
  | 'SUPERSEDED';

/** The same of the destination's journal. */
export type DestinationRecord =
  | 'PREPARED'
  | 'LOADED'
  | 'OWNED'
  | 'RUNNING'
  | 'SOURCE_GONE'
  | 'ABORTED'
  | 'SUPERSEDED';

export type HandoverRecord = SourceRecord | DestinationRecord;

/**
 * Whose copy of a domain counts: the higher epoch, and within one epoch the higher generation. A
 * migration raises the generation; only a person's word, by ResolveMigration, raises the epoch.
 */
export interface Rank {
  readonly epoch: number;
  readonly generation: number;
}

/** The source's half of one migration. */
export interface SourceState {
  readonly record: SourceRecord;
  /** Of the copy on the source. */
  readonly rank: Rank;
  /**
   * True while the source does not trust its own journal: the host has booted again since the
   * destination was prepared. Nothing runs before the destination has answered.
   */
  readonly held: boolean;
}

/** The destination's half. */
export interface DestinationState {
  readonly record: DestinationRecord;
  /** Of the copy on the destination. */
  readonly rank: Rank;
  /**
   * True where it is known that the source has not taken the guest back: this life of the agent
   * took the commit itself, or the source or a person has said so. After a restart it has to ask.
   */
  readonly confirmed: boolean;
}

/** What is re-read, not remembered, right before the guest is given up. */
export interface CommitGuard {
  /** QEMU's migration is `completed`, and its guest `postmigrate`: it never resumes by itself. */
  readonly fenced: boolean;
  /** Every mirror ended without error after the guest's last stop. */
  readonly settled: boolean;
  /** The destination that was prepared has voted, by the same journal. */
  readonly voted: boolean;
}

/** What the source's QEMU does, as it says itself. */
export type SourceQemu = 'running' | 'switching' | 'completed' | 'gone';

/** What the destination's QEMU does, as it says itself. */
export type DestinationQemu = 'waiting' | 'loaded' | 'running' | 'gone';

/** What the source learns or is asked. */
export type SourceEvent =
  | { readonly type: 'prepared' }
  | { readonly type: 'switching' }
  | { readonly type: 'loaded'; readonly guard: CommitGuard }
  | { readonly type: 'failed' }
  | { readonly type: 'taken' }
  | { readonly type: 'refused' }
  | {
      readonly type: 'restarted';
      readonly qemu: SourceQemu;
      /** False where the host has booted since the journal began. */
      readonly sameBoot: boolean;
      /** True where every mirror of this migration still goes on. */
      readonly mirrored: boolean;
    }
  /** The destination's answer to a question, or its question, with what its journal says. */
  | { readonly type: 'peer'; readonly record: DestinationRecord | 'NONE'; readonly rank: Rank }
  | { readonly type: 'resolved'; readonly by: 'reclaim' | 'relinquish' };

/** What the destination learns or is asked. */
export type DestinationEvent =
  | { readonly type: 'loaded' }
  | { readonly type: 'commit' }
  | { readonly type: 'resumed' }
  /** QEMU itself refused to run the guest, and it is dead now. */
  | { readonly type: 'never-ran' }
  /** Its QEMU is gone and may have run it: the images here count. */
  | { readonly type: 'lost' }
  | { readonly type: 'abort' }
  | { readonly type: 'source-gone' }
  | { readonly type: 'restarted'; readonly qemu: DestinationQemu }
  | { readonly type: 'peer'; readonly record: SourceRecord | 'NONE'; readonly rank: Rank }
  | { readonly type: 'resolved'; readonly by: 'reclaim' | 'relinquish' };

/** What an agent must do, in this order, before it takes the next event. */
export type Effect =
  /** Write it durably. Where that fails the effects behind it must not happen. */
  | { readonly type: 'write'; readonly record: HandoverRecord; readonly rank: Rank }
  /** Ask the destination to take the guest, until it has answered. */
  | { readonly type: 'send-commit' }
  /** Ask the destination to give up, and take its answer as the next event. */
  | { readonly type: 'send-abort' }
  /** Ask the peer what its journal says, until it has answered. */
  | { readonly type: 'ask-peer' }
  /** The guest runs here, or may be started here where its QEMU has gone. */
  | { readonly type: 'run-here' }
  /** The flow is run again; it finds what is there. */
  | { readonly type: 'go-on' }
  /** End QEMU here and turn the images into the tombstone; then tell the destination. */
  | { readonly type: 'retire' }
  /** End QEMU here and remove everything that was made for the migration. */
  | { readonly type: 'discard' }
  /** Answer that the guest never ran here and never will. */
  | { readonly type: 'refuse' }
  /** Stop the guest here if it runs, keep its images, and call a person. */
  | { readonly type: 'stand-down' };

/** A state and what follows from the event. */
export interface Step<State> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

/** True where the source's half lets the guest run there. */
export function sourceMayRun({ record, held }: SourceState): boolean {
  return !held && (isUndecided(record) || record === 'ABORTED' || record === 'RECLAIMED');
}

/** True where the destination's half lets the guest run there. */
export function destinationMayRun({ record, confirmed }: DestinationState): boolean {
  return isTaken(record) && confirmed;
}

/** True where one copy of a domain counts more than another. */
export function outranks(one: Rank, other: Rank): boolean {
  return one.epoch === other.epoch ? one.generation > other.generation : one.epoch > other.epoch;
}

/** True while the source may still give the migration up alone. */
export function isUndecided(record: SourceRecord | 'NONE'): boolean {
  return record === 'STARTED' || record === 'DST_PREPARED' || record === 'SWITCHING';
}

/** True once the guest is the destination's, as far as its own journal says. */
export function isTaken(record: DestinationRecord | 'NONE'): boolean {
  return record === 'OWNED' || record === 'RUNNING' || record === 'SOURCE_GONE';
}

/** True before the guest is the destination's. */
export function isComing(record: DestinationRecord | 'NONE'): boolean {
  return record === 'PREPARED' || record === 'LOADED';
}

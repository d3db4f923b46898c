import type {
  DestinationEvent,
  DestinationRecord,
  Rank,
  SourceEvent,
  SourceRecord,
} from '../../../src/migration/handover-types.js';

/*
 * What one side may have been sent, as bits of its inbox. A message stays there for as long as the
 * receiver lives: it may arrive late, twice, in any order, or never. It does not outlive the
 * receiver, because the key of a TLS connection does not.
 */

const PLAIN = {
  ...{ prepare: 1, commit: 2, abort: 4, 'source-gone': 8, refused: 16 },
  // Above all records.
  taken: 1 << 29,
} as const;
const FIRST_RECORD = 5;
/** How often a side's epoch can have been raised above the one that the migration began with. */
const RAISES = 3;

const SOURCE_RECORDS: readonly SourceRecord[] = [
  ...(['STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED', 'DONE'] as const),
  ...(['ABORTED', 'RECLAIMED', 'SUPERSEDED'] as const),
];
const DESTINATION_RECORDS: readonly (DestinationRecord | 'NONE')[] = [
  ...(['PREPARED', 'LOADED', 'OWNED', 'RUNNING', 'SOURCE_GONE'] as const),
  ...(['ABORTED', 'SUPERSEDED', 'NONE'] as const),
];

/** The bit of a message that carries no record. */
export function plainBit(message: keyof typeof PLAIN): number {
  return PLAIN[message];
}

/** The bit for what the source's journal says, by how far its epoch is above the first. */
export function sourceRecordBit(record: SourceRecord, raised: number): number {
  return recordBit(SOURCE_RECORDS.indexOf(record), Math.ceil(raised / 2));
}

/** The bit for what the destination's journal says. */
export function destinationRecordBit(record: DestinationRecord | 'NONE', raised: number): number {
  return recordBit(DESTINATION_RECORDS.indexOf(record), Math.ceil(raised / 2));
}

// A person raises the source's epoch to odd distances, and the destination's to even ones.
function recordBit(index: number, raises: number): number {
  return 1 << (FIRST_RECORD + index * RAISES + Math.min(raises, RAISES - 1));
}

/** A message, and the event that its arrival is. */
export interface Arrival<Event> {
  readonly bit: number;
  readonly label: string;
  event(rank: Rank): Event;
}

/**
 * Everything that may arrive at the source. A commit is answered with what a question is answered
 * with, too.
 */
export const SOURCE_ARRIVALS: readonly Arrival<SourceEvent>[] = [
  {
    bit: ['ABORTED' as const, 'SUPERSEDED' as const].reduce(
      (bits, record) => bits | anyEpoch(DESTINATION_RECORDS.indexOf(record)),
      PLAIN.refused,
    ),
    label: 'refused',
    event: () => ({ type: 'refused' }),
  },
  { bit: PLAIN.taken, label: 'taken', event: () => ({ type: 'taken' }) },
  ...(['RUNNING', 'SOURCE_GONE'] as const).map((record) => ({
    bit: anyEpoch(DESTINATION_RECORDS.indexOf(record)),
    label: 'taken',
    event: () => ({ type: 'taken' }) as const,
  })),
  ...DESTINATION_RECORDS.flatMap((record, index) =>
    counts().map((raises) => ({
      bit: recordBit(index, raises),
      label: `peer ${record}`,
      event: ({ epoch, generation }: Rank) =>
        ({
          type: 'peer',
          record,
          rank: { epoch: epoch + 2 * raises, generation: generation + 1 },
        }) as const,
    })),
  ),
];

/** Everything that may arrive at the destination, once it has a journal. */
export const DESTINATION_ARRIVALS: readonly Arrival<DestinationEvent>[] = [
  { bit: PLAIN.commit, label: 'commit', event: () => ({ type: 'commit' }) },
  { bit: PLAIN.abort, label: 'abort', event: () => ({ type: 'abort' }) },
  { bit: PLAIN['source-gone'], label: 'source-gone', event: () => ({ type: 'source-gone' }) },
  ...SOURCE_RECORDS.flatMap((record, index) =>
    counts().map((raises) => ({
      bit: recordBit(index, raises),
      label: `peer ${record}`,
      event: ({ epoch, generation }: Rank) =>
        ({
          type: 'peer',
          record,
          rank: { epoch: epoch + Math.max(0, 2 * raises - 1), generation },
        }) as const,
    })),
  ),
];

function counts(): number[] {
  return Array.from({ length: RAISES }, (_, raises) => raises);
}

function anyEpoch(index: number): number {
  return counts().reduce((bits, raises) => bits | recordBit(index, raises), 0);
}

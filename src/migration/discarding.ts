import type { JournalEntry } from './journal.js';
import type { ReadJournal } from './journal-reading.js';

/** Something that a person's decision discards. */
export interface Discarded {
  /** The host that it is on. */
  readonly host: string;
  /** In words, with the time. */
  readonly what: string;
  /** Since when it has been made; undefined where that is not known. */
  readonly since: Date | undefined;
}

/**
 * Says what is lost when this side takes the guest back, or leaves it to the other side: what the
 * other copy has, and this one has not.
 */
export function describeDiscarded(
  action: 'reclaim' | 'relinquish',
  { header, entries }: ReadJournal,
): readonly Discarded[] {
  const { side, sourceHost: source, destinationHost: destination } = header;
  const since = new Date(turningPoint(side, entries) ?? header.createTime);
  const at = since.toISOString();
  const one = (host: string, what: string) => ({ host, what, since });
  if (side === 'source') {
    return action === 'reclaim'
      ? [one(destination, `every write that the guest made on ${destination} since ${at}`)]
      : [
          one(source, `the RAM of the guest on ${source}, as it was at ${at}`),
          one(source, `the images on ${source} as they were at ${at}: they become the tombstone`),
        ];
  }
  return action === 'reclaim'
    ? [
        one(
          source,
          `every write that the guest made on ${source} after ${at}, if it ran there again`,
        ),
        one(source, `the RAM of the guest on ${source}, as it was at ${at}`),
      ]
    : [
        one(destination, `every write that the guest made on ${destination} since ${at}`),
        one(destination, `the RAM of the guest on ${destination}; its images stay, as an old copy`),
      ];
}

/** When the two copies began to differ. */
function turningPoint(side: string, entries: readonly JournalEntry[]): string | undefined {
  const records = side === 'source' ? ['COMMITTED', 'SWITCHING'] : ['OWNED'];
  for (const name of records) {
    const entry = entries.findLast(({ record }) => record === name);
    if (entry) return entry.at;
  }
  return entries[0]?.at;
}

import type { JournalHeader } from './journal.js';
import { type ReadJournal, readText } from './journal-reading.js';
import type { PeerHeader } from './peer.js';

/** Names the migration of a source's journal to its destination. */
export function headerAtSource(journal: ReadJournal): PeerHeader {
  const { header } = journal;
  return {
    ...common(header),
    generation: header.generation,
    sourceJournalId: header.journalId,
    destinationJournalId: readText(journal, 'destinationJournalId'),
  };
}

/** The same for the journal of a destination, whose copy is of the next generation. */
export function headerAtDestination({ header }: ReadJournal): PeerHeader {
  return {
    ...common(header),
    generation: header.generation - 1,
    sourceJournalId: String(header.details['sourceJournalId']),
    destinationJournalId: header.journalId,
  };
}

function common({ migrationId, attempt, domainUuid, epoch, ...header }: JournalHeader) {
  const { sourceHost, destinationHost } = header;
  return { migrationId, attempt, domainUuid, epoch, sourceHost, destinationHost };
}

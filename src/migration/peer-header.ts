import { type ReadJournal, readAttempt, readText } from './journal-reading.js';
import type { PeerHeader } from './peer.js';

/** Names the migration of a source's journal to its destination. */
export function headerAtSource(journal: ReadJournal): PeerHeader {
  const { header } = journal;
  return {
    ...common(journal),
    generation: header.generation,
    sourceJournalId: header.journalId,
    destinationJournalId: readText(journal, 'destinationJournalId'),
  };
}

/** The same for the journal of a destination, whose copy is of the next generation. */
export function headerAtDestination(journal: ReadJournal): PeerHeader {
  const { header } = journal;
  const { sourceJournalId } = header.details;
  return {
    ...common(journal),
    generation: header.generation - 1,
    sourceJournalId: typeof sourceJournalId === 'string' ? sourceJournalId : '',
    destinationJournalId: header.journalId,
  };
}

function common(journal: ReadJournal) {
  const { migrationId, domainUuid, epoch, sourceHost, destinationHost } = journal.header;
  const attempt = readAttempt(journal);
  return { migrationId, attempt, domainUuid, epoch, sourceHost, destinationHost };
}

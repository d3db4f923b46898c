import type { DestinationContext } from './destination-context.js';
import { MigrationError } from './errors.js';
import type { PeerHeader } from './peer.js';

/*
 * Which calls of another agent may touch which migration. A header is only what the caller claims;
 * PeerService has made sure that the caller is the host it claims to be, and here the claim is held
 * against what this host has in writing.
 */

/** Between whom a migration is. */
export type Parties = Pick<PeerHeader, 'sourceHost' | 'destinationHost'>;

/**
 * Makes sure that a call is about a migration of this host with the caller, and asks of it only
 * what its side may ask: the source everything, the destination nothing but what the journal says.
 *
 * @throws MigrationError `PERMISSION_DENIED`
 */
export function assertOfThisHost(
  host: string,
  { sourceHost, destinationHost }: Parties,
  side: 'destination' | 'either',
): void {
  const here = destinationHost === host || (side === 'either' && sourceHost === host);
  if (!here || sourceHost === destinationHost) throw notYours();
}

/**
 * Makes sure that a call is of one of the two hosts between which the migration is, and from its
 * side. The error says nothing about it, because whoever gets it must not learn anything.
 *
 * @throws MigrationError `PERMISSION_DENIED`
 */
export function assertSameParties(known: Parties, said: Parties): void {
  const same =
    known.sourceHost === said.sourceHost && known.destinationHost === said.destinationHost;
  if (!same) throw notYours();
}

/** True where a call is about one of the same id and the same hosts, the other way round. */
export function isOtherWay(known: Parties, said: Parties): boolean {
  return known.sourceHost === said.destinationHost && known.destinationHost === said.sourceHost;
}

/**
 * Makes sure that a call is of the run of the migration that is known here: another run of either
 * side must not touch it. `ahead`: by how many attempts the source may be ahead, because its last
 * call for RAM was lost or is this one.
 *
 * @throws MigrationError `PERMISSION_DENIED`, `MIGRATION_EXISTS`
 */
export function assertSameRun(
  { header: known, context }: { readonly header: PeerHeader; readonly context: DestinationContext },
  header: PeerHeader,
  ahead = 0,
): void {
  assertSameParties(known, header);
  const { journalId } = context.state;
  const behind = header.attempt - context.attempt;
  const same =
    known.sourceJournalId === header.sourceJournalId &&
    behind >= 0 &&
    behind <= ahead &&
    known.domainUuid === header.domainUuid &&
    (header.destinationJournalId === journalId || header.destinationJournalId === '');
  if (!same) throw anotherRun(header.migrationId);
}

/** What a call of another run gets, once its caller is known to take part. */
export function anotherRun(migrationId: string): MigrationError {
  const message = 'The call belongs to another run of this migration.';
  const facts = { migration_id: migrationId };
  return new MigrationError('MIGRATION_EXISTS', message, { side: 'destination', facts });
}

function notYours(): MigrationError {
  return new MigrationError(
    'PERMISSION_DENIED',
    'The caller takes no part in this migration here, as far as this agent knows.',
  );
}

import { randomUUID } from 'node:crypto';
import { MigrationError } from './errors.js';
import type { MigrationRequest } from './migration.js';

const DEFAULT_DOWNTIME_LIMIT_MS = 300;
const LONGEST_DOWNTIME_LIMIT_MS = 60_000;
/** Of a migration for which nobody says more. */
export const DEFAULT_WEIGHT = 10;
const HEAVIEST = 100;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/**
 * Fills in what a request leaves open.
 *
 * @throws MigrationError `REQUEST_INVALID`
 */
export function validated(request: MigrationRequest): MigrationRequest {
  const migrationId = request.migrationId || randomUUID();
  const downtimeLimitMs = request.downtimeLimitMs || DEFAULT_DOWNTIME_LIMIT_MS;
  const wrong = (message: string) => new MigrationError('REQUEST_INVALID', message);
  if (!request.domain) throw wrong('domain is empty: name the domain to move.');
  if (!request.destinationHost) throw wrong('destination_host is empty: name one of the peers.');
  if (!UUID.test(migrationId)) throw wrong(`migration_id "${migrationId}" is not a UUID.`);
  if (downtimeLimitMs > LONGEST_DOWNTIME_LIMIT_MS) {
    throw wrong(
      `downtime_limit_ms is ${downtimeLimitMs}; it may be 1 to ${LONGEST_DOWNTIME_LIMIT_MS}.`,
    );
  }
  const weight = request.weight || DEFAULT_WEIGHT;
  if (weight > HEAVIEST) throw wrong(`weight is ${weight}; it may be 1 to ${HEAVIEST}.`);
  return { ...request, migrationId, downtimeLimitMs, weight };
}

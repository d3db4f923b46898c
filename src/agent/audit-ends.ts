import type { Migration } from '../migration/migration.js';
import type { MigrationRegistry } from '../migration/registry.js';
import type { AuditLog, AuditReader } from '../util/audit.js';

const ACTION = 'MIGRATION_ENDED';

/** Records how each migration ends that this host sends or receives, from now on and once. */
export function recordEnds(
  registry: MigrationRegistry,
  audit: AuditLog & AuditReader,
  host: string,
): void {
  registry.onEnd((migration) => {
    if (isRecorded(migration, audit)) return;
    const { migrationId, failure } = migration;
    audit.record({
      caller: `host/${host}`,
      action: ACTION,
      decision: 'EVENT',
      reason: failure?.reason ?? 'OK',
      subject: migrationId,
      message: describe(migration),
    });
  });
}

/**
 * An agent that was killed before the end was in its journal as well comes to the same end again.
 * An event from before the migration began is another one's, whose id had become free.
 */
function isRecorded({ migrationId, createTime }: Migration, audit: AuditReader): boolean {
  const since = new Date(createTime.getTime() + 1);
  const query = { caller: '', action: ACTION, subject: migrationId, decision: 'EVENT' } as const;
  return audit.list({ ...query, since, before: undefined }, 1).length > 0;
}

function describe({ domainName, sourceHost, destinationHost, state, failure }: Migration): string {
  const outcome = `${domainName} ${sourceHost} -> ${destinationHost}: ${state}`;
  return failure ? `${outcome}: ${failure.message}` : outcome;
}

import type { MigrationServiceImplementation } from '../gen/drover/v1/migration_service.js';
import type { MigrationManager } from '../migration/migration.js';
import type { ResolvePort } from '../migration/resolving.js';
import { migrationRequestFromWire, migrationToWire } from './convert-migration.js';
import { resolutionToWire, resolveRequestFromWire } from './convert-ownership.js';
import type { CallerContext } from './middleware.js';

/** MigrationService in front of the agent's migrations. */
export function migrationService(
  migrations: MigrationManager,
  resolver: ResolvePort,
): MigrationServiceImplementation<CallerContext> {
  return {
    async startMigration(request) {
      const migration = await migrations.start(migrationRequestFromWire(request));
      return { migration: migrationToWire(migration) };
    },
    async getMigration({ migrationId }) {
      return { migration: migrationToWire(migrations.get(migrationId)) };
    },
    async listMigrations({ domain }) {
      return { migrations: migrations.list(domain).map(migrationToWire) };
    },
    async *watchMigration({ migrationId }, { signal }) {
      for await (const migration of migrations.watch(migrationId, { signal })) {
        yield { migration: migrationToWire(migration) };
      }
    },
    async cancelMigration({ migrationId }, { caller }) {
      const migration = migrations.cancel(migrationId, `${caller.role} ${caller.name}`);
      return { migration: migrationToWire(migration) };
    },
    async resolveMigration(request, { caller, signal }) {
      const asked = resolveRequestFromWire(request, `${caller.role} ${caller.name}`);
      return resolutionToWire(await resolver.resolve(asked, { signal }));
    },
  };
}

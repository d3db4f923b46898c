import { HealthDefinition } from 'nice-grpc-server-health';
import { ServerReflectionService } from 'nice-grpc-server-reflection';
import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../gen/drover/v1/migration_service.js';
import { PeerServiceDefinition } from '../gen/drover/v1/peer_service.js';
import { RpcError } from './errors.js';
import { type Caller, ROLES, type Role } from './identity.js';

/*
 * Who may call what. A method without a row is denied to everybody; the types ask for a row for
 * each method of our own services, and a test does so for the others.
 */

type Rows<Definition extends { readonly methods: object }> = {
  readonly [Method in keyof Definition['methods']]: readonly Role[];
};

const OPERATORS = ['operator'] as const;
const MOVERS = ['scheduler', 'operator'] as const;
const READERS = ['scheduler', 'operator', 'observer'] as const;
const AUDITORS = ['operator', 'observer'] as const;
const HOSTS = ['host'] as const;
const EVERYBODY = ROLES;

const migrationService: Rows<MigrationServiceDefinition> = {
  startMigration: MOVERS,
  getMigration: READERS,
  listMigrations: READERS,
  watchMigration: READERS,
  cancelMigration: MOVERS,
  resolveMigration: MOVERS,
};

const domainService: Rows<DomainServiceDefinition> = {
  createDomain: OPERATORS,
  startDomain: OPERATORS,
  stopDomain: OPERATORS,
  deleteDomain: OPERATORS,
  getDomain: READERS,
  listDomains: READERS,
  // Agents ask each other.
  whoRuns: EVERYBODY,
};

const hostService: Rows<HostServiceDefinition> = {
  // Agents ask each other whether they are there.
  getHost: EVERYBODY,
  listPeers: READERS,
  listAuditEvents: AUDITORS,
};

/**
 * Hosts only. Of which migrations a host may speak is checked in peer-service.ts, by what the call
 * says, and in the migration layer, by what is known of the migration.
 */
const peerService: Rows<PeerServiceDefinition> = {
  prepare: HOSTS,
  exportDisks: HOSTS,
  acceptRam: HOSTS,
  probeData: HOSTS,
  shareIngress: HOSTS,
  awaitLoaded: HOSTS,
  commit: HOSTS,
  revoke: HOSTS,
  abort: HOSTS,
  queryMigration: HOSTS,
  sourceGone: HOSTS,
};

const METHOD_ROLES: ReadonlyMap<string, readonly Role[]> = new Map([
  ...rows(MigrationServiceDefinition, migrationService),
  ...rows(DomainServiceDefinition, domainService),
  ...rows(HostServiceDefinition, hostService),
  ...rows(PeerServiceDefinition, peerService),
  [`/${HealthDefinition.fullName}/Check`, EVERYBODY],
  [`/${HealthDefinition.fullName}/Watch`, EVERYBODY],
  [ServerReflectionService.serverReflectionInfo.path, READERS],
]);

/** The roles that may call a method, by its full path such as `/drover.v1.HostService/GetHost`. */
export function allowedRoles(path: string): readonly Role[] {
  return METHOD_ROLES.get(path) ?? [];
}

/** @throws RpcError `PERMISSION_DENIED` */
export function authorize(path: string, caller: Caller): void {
  const roles = allowedRoles(path);
  if (roles.includes(caller.role)) return;
  const allowed = roles.join(', ') || 'nobody';
  throw new RpcError(
    'PERMISSION_DENIED',
    `The ${caller.role} ${caller.name} may not call ${path}; it is for ${allowed}.`,
  );
}

function rows<Definition extends { fullName: string; methods: Record<string, { name: string }> }>(
  definition: Definition,
  roles: Record<string, readonly Role[]>,
): [string, readonly Role[]][] {
  return Object.entries(definition.methods).map(([key, method]) => [
    `/${definition.fullName}/${method.name}`,
    roles[key] ?? [],
  ]);
}

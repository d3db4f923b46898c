import type { DomainManager, HostFacts } from '../domain/manager.js';
import type { PeerFacts } from '../mesh/peers.js';
import type { MigrationManager } from '../migration/migration.js';
import type { PeerHandler } from '../migration/peer.js';
import type { ResolvePort } from '../migration/resolving.js';
import type { OwnershipPort } from '../migration/who-runs.js';
import type { AuditReader } from '../util/audit.js';

/** What HostService asks of the agent. */
export interface HostPort {
  facts(): Promise<HostFacts>;
  /** Every peer by name, each asked just now. */
  peers(): Promise<readonly PeerFacts[]>;
  /** What is on record. */
  readonly auditEvents: AuditReader['list'];
}

/** What the four services are in front of. */
export interface RpcPorts {
  readonly migrations: MigrationManager;
  readonly domains: DomainManager;
  readonly host: HostPort;
  readonly peer: PeerHandler;
  readonly ownership: OwnershipPort;
  readonly resolve: ResolvePort;
}

/** The version of the protocol between agents; both must speak the same. */
export const PROTOCOL_VERSION = 1;

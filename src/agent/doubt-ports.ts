import type { HostDomains } from '../domain/host-domains.js';
import type { IncomingMigrations } from '../migration/incoming-migrations.js';
import type { Migrations } from '../migration/migrations.js';
import { type Resolvable, type ResolvePort, Resolver } from '../migration/resolving.js';
import { type OwnershipPort, WhoRuns } from '../migration/who-runs.js';
import type { PeerClients } from '../rpc/peer-directory.js';
import type { Clock } from '../util/clock.js';
import type { Log } from '../util/log.js';
import type { AgentConfig } from './config.js';
import { fenceBy } from './fence.js';
import type { AgentState } from './state.js';

/** What the answers about ownership are made of. */
export interface DoubtParts {
  readonly config: AgentConfig;
  readonly state: AgentState;
  readonly domains: HostDomains;
  readonly migrations: Migrations;
  readonly incoming: IncomingMigrations;
  readonly peers: PeerClients;
  readonly clock: Clock;
  readonly log: Log;
}

/** What callers may ask, and may decide, about who has a domain. */
export function doubtPorts(parts: DoubtParts): { ownership: OwnershipPort; resolve: ResolvePort } {
  const { config, state, domains, migrations, incoming, peers, clock, log } = parts;
  const { host } = config;
  const find = (migrationId: string): Resolvable | undefined =>
    migrations.find(migrationId) ?? incoming.find(migrationId);
  return {
    ownership: new WhoRuns({
      host,
      domain: (reference) => domains.get(reference),
      journals: () => state.journals.readAll(),
      undecided: (migrationId) => find(migrationId)?.undecided,
      quarantine: state.quarantine?.message,
      ask: (peer, question) => peers.whoRuns(peer, question),
      clock,
    }),
    resolve: new Resolver({
      host,
      find,
      get: (migrationId) => migrations.get(migrationId),
      fence: fenceBy(config.fence),
      clock,
      log,
    }),
  };
}

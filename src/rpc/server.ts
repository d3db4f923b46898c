import { ServerCredentials } from '@grpc/grpc-js';
import { createServer, type Server } from 'nice-grpc';
import type { ServerMiddleware } from 'nice-grpc-common';
import { errorDetailsServerMiddleware } from 'nice-grpc-error-details';
import { HealthDefinition, HealthServiceImpl, HealthState } from 'nice-grpc-server-health';
import { ServerReflectionService } from 'nice-grpc-server-reflection';
import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../gen/drover/v1/migration_service.js';
import { type AuditLog, noAudit } from '../util/audit.js';
import type { Log } from '../util/log.js';
import { auditCalls } from './audit.js';
import { limitCalls } from './call-limits.js';
import { type MutualTlsCredentials, serverCredentials } from './credentials.js';
import { domainService } from './domain-service.js';
import { DoorGuard } from './door-guard.js';
import { RpcError } from './errors.js';
import { hostService } from './host-service.js';
import { passCertificate } from './interceptors.js';
import { type ConnectionLimits, DEFAULT_CONNECTION_LIMITS } from './limits.js';
import { openLocalDoor } from './local-door.js';
import {
  answerErrors,
  type CallerContext,
  checkRole,
  identifyAsLocal,
  identifyByCertificate,
  logCalls,
  Terminator,
} from './middleware.js';
import { migrationService } from './migration-service.js';
import { AWAIT_LOADED_PATH, HANDOVER_PATHS, peerDefinition } from './peer-definition.js';
import { peerService } from './peer-service.js';
import type { RpcPorts } from './ports.js';
import { reflection } from './reflection.js';
import { serverOptions } from './settings.js';
import { materialNow, type TlsSource } from './tls-material.js';

/** What an agent serves, and where. */
export interface RpcServerSettings {
  /** `host:port`; port 0 takes a free one. */
  readonly address: string;
  /** Of the unix socket for callers on this host; at most 107 bytes. Undefined serves none. */
  readonly socketPath: string | undefined;
  /** Where it is kept, new connections use what is new. */
  readonly tls: TlsSource;
  readonly agentVersion: string;
  readonly ports: RpcPorts;
  readonly log: Log;
  /** Where calls are recorded; none by default. */
  readonly audit?: AuditLog;
  readonly limits?: ConnectionLimits;
}

/** Both doors of an agent, open. */
export interface RpcServer {
  /** The port on the network. */
  readonly port: number;
  /** What the health service says; `''` is the agent as a whole. */
  readonly health: HealthState;
  /**
   * Ends the calls that only wait, lets the others end by themselves for `limitMs`, then ends all.
   * Repeating it is harmless.
   */
  shutdown(limitMs: number): Promise<void>;
}

/**
 * Opens both doors: the network with mutual TLS, and the unix socket.
 *
 * @throws RpcError `CONFIG_INVALID` where certificates cannot be used or a place to listen is taken
 */
export async function startRpcServer(settings: RpcServerSettings): Promise<RpcServer> {
  const { log, tls } = settings;
  const material = materialNow(tls);
  const credentials = serverCredentials(material);
  const health = HealthState();
  const terminator = new Terminator(
    ({ path, responseStream }) => path === AWAIT_LOADED_PATH || responseStream,
  );
  const open = (identify: ServerMiddleware<CallerContext>) =>
    serve(settings, identify, terminator, health);

  const network = open(identifyByCertificate(material.identity.trustDomain, log));
  const port = await listen(network, settings.address, credentials);
  const unfollow = keepUp(credentials, tls);
  const doors = [network];
  let leaveSocket = async () => {};
  const { audit = noAudit, limits = DEFAULT_CONNECTION_LIMITS } = settings;
  const guard = new DoorGuard({ address: settings.address, port, limits, audit });
  if (settings.socketPath !== undefined) {
    const local = open(identifyAsLocal);
    try {
      const at = (address: string) => listen(local, address, ServerCredentials.createInsecure());
      leaveSocket = await openLocalDoor(settings.socketPath, at);
    } catch (error) {
      local.forceShutdown();
      unfollow?.();
      guard.close();
      network.forceShutdown();
      throw error;
    }
    doors.push(local);
  }
  return {
    port,
    health,
    async shutdown(limitMs) {
      health.setStatus('unhealthy');
      unfollow?.();
      terminator.terminate();
      await Promise.all(doors.map((door) => close(door, limitMs)));
      await leaveSocket();
      guard.close();
      log.debug({}, 'server closed');
    },
  };
}

/** Lets a door use what is new for new connections, until the answer is called. */
function keepUp(credentials: MutualTlsCredentials, tls: TlsSource): (() => void) | undefined {
  if (!('material' in tls)) return undefined;
  // It may have changed while the door was opened.
  credentials.use(tls.material);
  return tls.onChange((material) => credentials.use(material));
}

/** One server with all services; only how callers are identified differs between the doors. */
function serve(
  settings: RpcServerSettings,
  identify: ServerMiddleware<CallerContext>,
  terminator: Terminator,
  health: HealthState,
): Server<CallerContext> {
  const { log, ports, agentVersion } = settings;
  const { audit = noAudit, limits = DEFAULT_CONNECTION_LIMITS } = settings;
  const recorded = auditCalls(audit);
  const server = createServer({
    ...serverOptions(limits),
    interceptors: [limitCalls({ limits, audit, spared: HANDOVER_PATHS }), passCertificate],
  })
    .use(errorDetailsServerMiddleware)
    .use(answerErrors)
    .use(recorded.strangers)
    .use(identify)
    .use(recorded.calls)
    .use(logCalls(log))
    .use(checkRole)
    .use(terminator.middleware());
  server.add(MigrationServiceDefinition, migrationService(ports.migrations, ports.resolve));
  server.add(DomainServiceDefinition, domainService(ports.domains, ports.ownership));
  server.add(HostServiceDefinition, hostService(ports.host, agentVersion));
  server.add(peerDefinition, peerService(ports.peer));
  server.add(HealthDefinition, HealthServiceImpl(health));
  server.add(ServerReflectionService, reflection());
  return server;
}

async function listen(
  server: Server<CallerContext>,
  address: string,
  credentials: ServerCredentials,
): Promise<number> {
  try {
    return await server.listen(address, credentials);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RpcError('CONFIG_INVALID', `The agent cannot listen on ${address}: ${why}.`, {
      cause: error,
    });
  }
}

async function close(server: Server<CallerContext>, limitMs: number): Promise<void> {
  const timer = setTimeout(() => server.forceShutdown(), limitMs);
  try {
    await server.shutdown();
  } finally {
    clearTimeout(timer);
  }
}

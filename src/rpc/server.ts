import { chmod, lstat, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { ServerCredentials } from '@grpc/grpc-js';
import { createServer, type Server } from 'nice-grpc';
import type { ServerMiddleware } from 'nice-grpc-common';
import { errorDetailsServerMiddleware } from 'nice-grpc-error-details';
import { HealthDefinition, HealthServiceImpl, HealthState } from 'nice-grpc-server-health';
import { ServerReflectionService } from 'nice-grpc-server-reflection';
import { DomainServiceDefinition } from '../gen/drover/v1/domain_service.js';
import { HostServiceDefinition } from '../gen/drover/v1/host_service.js';
import { MigrationServiceDefinition } from '../gen/drover/v1/migration_service.js';
import type { Log } from '../util/log.js';
import { readTlsFiles, serverCredentials, type TlsFiles } from './credentials.js';
import { domainService } from './domain-service.js';
import { RpcError } from './errors.js';
import { hostService } from './host-service.js';
import { passCertificate, widenWindow } from './interceptors.js';
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
import { peerService } from './peer-service.js';
import type { RpcPorts } from './ports.js';
import { AWAIT_LOADED_PATH, peerDefinition, STREAM_RAM_PATH } from './ram-codec.js';
import { reflection } from './reflection.js';
import { RAM_WINDOW_BYTES, SERVER_OPTIONS } from './settings.js';

/** What an agent serves, and where. */
export interface RpcServerSettings {
  /** `host:port`; port 0 takes a free one. */
  readonly address: string;
  /** Of the unix socket for callers on this host; at most 107 bytes. Undefined serves none. */
  readonly socketPath: string | undefined;
  readonly tls: TlsFiles;
  readonly agentVersion: string;
  readonly ports: RpcPorts;
  readonly log: Log;
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
  const { log } = settings;
  const material = readTlsFiles(settings.tls);
  const health = HealthState();
  const terminator = new Terminator(
    ({ path, responseStream }) =>
      path === AWAIT_LOADED_PATH || (responseStream && path !== STREAM_RAM_PATH),
  );
  const open = (identify: ServerMiddleware<CallerContext>) =>
    serve(settings, identify, terminator, health);

  const network = open(identifyByCertificate(material.identity.trustDomain, log));
  const port = await listen(network, settings.address, serverCredentials(material));
  const doors = [network];
  if (settings.socketPath !== undefined) {
    const local = open(identifyAsLocal);
    try {
      await listenOnSocket(local, settings.socketPath);
    } catch (error) {
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
      terminator.terminate();
      await Promise.all(doors.map((door) => close(door, limitMs)));
      log.debug({}, 'server closed');
    },
  };
}

/** One server with all services; only how callers are identified differs between the doors. */
function serve(
  settings: RpcServerSettings,
  identify: ServerMiddleware<CallerContext>,
  terminator: Terminator,
  health: HealthState,
): Server<CallerContext> {
  const { log, ports, agentVersion } = settings;
  const server = createServer({
    ...SERVER_OPTIONS,
    interceptors: [widenWindow(new Set([STREAM_RAM_PATH]), RAM_WINDOW_BYTES, log), passCertificate],
  })
    .use(errorDetailsServerMiddleware)
    .use(answerErrors)
    .use(identify)
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

/** A socket that an agent left when it was killed is in the way and is removed; nothing else is. */
async function listenOnSocket(server: Server<CallerContext>, path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found && !found.isSocket()) {
    throw new RpcError('CONFIG_INVALID', `${path} is not a socket, so it is left alone.`);
  }
  if (await isInUse(path)) {
    throw new RpcError('CONFIG_INVALID', `Another agent listens on ${path}.`);
  }
  await rm(path, { force: true });
  await listen(server, `unix:${path}`, ServerCredentials.createInsecure());
  // Until this line the mode is the umask's, which on any usual system lets others read but not
  // connect.
  await chmod(path, 0o600);
}

function isInUse(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const answer = (inUse: boolean) => {
      socket.destroy();
      resolve(inUse);
    };
    socket.on('connect', () => answer(true));
    socket.on('error', () => answer(false));
  });
}

async function close(server: Server<CallerContext>, limitMs: number): Promise<void> {
  const timer = setTimeout(() => server.forceShutdown(), limitMs);
  try {
    await server.shutdown();
  } finally {
    clearTimeout(timer);
  }
}

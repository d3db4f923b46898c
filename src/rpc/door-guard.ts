import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { isIP, type Server, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { parseAddress } from '../util/address.js';
import type { AuditLog } from '../util/audit.js';
import type { ConnectionLimits } from './limits.js';

/*
 * Connections before their first call, which gRPC's library shows to nobody. Node itself tells of
 * each one that its servers accept, and by which server.
 */

const CHANNEL = 'net.server.socket';

/** Which server is guarded, and by what. */
export interface DoorSettings {
  /** As it was given to listen; the port may be 0. */
  readonly address: string;
  /** The port that it was given. */
  readonly port: number;
  readonly limits: ConnectionLimits;
  readonly audit: AuditLog;
}

/** An HTTP/2 server with TLS, as far as it is needed here. */
interface SecureServer extends Server {
  on(event: 'session', listener: (session: Session) => void): this;
  on(event: 'tlsClientError', listener: (error: Error, socket: TLSSocket) => void): this;
  on(event: string, listener: (...values: never[]) => void): this;
}

interface Session {
  readonly socket: Socket;
  once(event: 'stream', listener: () => void): unknown;
}

interface Connection {
  readonly peer: string;
  readonly timer: NodeJS.Timeout | undefined;
  /** True where the guard itself ends it, so that nobody wonders why. */
  ended: boolean;
}

/**
 * Counts the connections of one door, in all and by address, closes those that are too many and
 * those that make no call in time - whether they send nothing, half a handshake, half a preface or
 * half a header - and puts on record which handshakes have failed.
 */
export class DoorGuard {
  readonly #settings: DoorSettings;
  readonly #ip: string | undefined;
  readonly #servers = new WeakSet<object>();
  readonly #connections = new Map<string, Connection>();
  readonly #bySocket = new WeakMap<Socket, Connection>();
  readonly #perAddress = new Map<string, number>();
  readonly #onSocket = (message: unknown) => {
    const { socket } = message as { readonly socket: Socket & { readonly server?: Server } };
    if (socket.server && this.#isOurs(socket.server)) this.#accept(socket);
  };

  /** Begins at once; the door must be open already. */
  constructor(settings: DoorSettings) {
    this.#settings = settings;
    const { host } = parseAddress(settings.address, { anyPort: true });
    this.#ip = isIP(host) ? host : undefined;
    subscribe(CHANNEL, this.#onSocket);
  }

  /** Connections that are open now. */
  get size(): number {
    return this.#connections.size;
  }

  close(): void {
    unsubscribe(CHANNEL, this.#onSocket);
    for (const { timer } of this.#connections.values()) clearTimeout(timer);
  }

  #isOurs(server: Server): boolean {
    if (this.#servers.has(server)) return true;
    const at = server.address();
    if (typeof at !== 'object' || at?.port !== this.#settings.port) return false;
    if (!('setSecureContext' in server) || (this.#ip ?? at.address) !== at.address) return false;
    this.#servers.add(server);
    const secure = server as SecureServer;
    secure.on('session', (session) => {
      const connection = this.#connections.get(keyOf(session.socket));
      session.once('stream', () => clearTimeout(connection?.timer));
    });
    secure.on('tlsClientError', (error, socket) => this.#handshakeFailed(error, socket));
    return true;
  }

  #accept(socket: Socket): void {
    const { limits } = this.#settings;
    const { remoteAddress: address = '' } = socket;
    const own = this.#perAddress.get(address) ?? 0;
    const full =
      this.#connections.size >= limits.connections
        ? `limits.connections is ${limits.connections}`
        : own >= limits.connectionsPerAddress
          ? `limits.connections_per_address is ${limits.connectionsPerAddress}`
          : undefined;
    if (full !== undefined) {
      // Nothing can be said to somebody who has not shown a certificate.
      this.#record(address, 'LIMIT_REACHED', `The connection was closed: ${full}.`);
      this.#bySocket.set(socket, { peer: address, timer: undefined, ended: true });
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    const late = () => this.#end(socket, address);
    const timer = setTimeout(late, limits.connectMs).unref();
    const connection = { peer: address, timer, ended: false };
    this.#connections.set(key, connection);
    this.#bySocket.set(socket, connection);
    this.#perAddress.set(address, own + 1);
    socket.once('close', () => {
      clearTimeout(timer);
      this.#connections.delete(key);
      const left = (this.#perAddress.get(address) ?? 1) - 1;
      if (left > 0) this.#perAddress.set(address, left);
      else this.#perAddress.delete(address);
    });
  }

  #end(socket: Socket, address: string): void {
    const { connectMs } = this.#settings.limits;
    const connection = this.#bySocket.get(socket);
    if (connection) connection.ended = true;
    const message = `It was closed, for it made no call: limits.connect_ms is ${connectMs}.`;
    this.#record(address, 'LIMIT_REACHED', message);
    socket.destroy();
  }

  #handshakeFailed(error: Error, socket: TLSSocket): void {
    // A TLS socket that has ended no longer says where it led; what lies beneath it still does.
    const beneath = (socket as { readonly _parent?: Socket })._parent;
    const connection = beneath && this.#bySocket.get(beneath);
    if (connection?.ended) return;
    const { code } = error as NodeJS.ErrnoException;
    const why = socket.authorizationError ?? code ?? error.message;
    this.#record(
      connection?.peer ?? 'unknown',
      'TLS_PEER_REJECTED',
      `The TLS handshake failed: ${why}.`,
    );
  }

  #record(caller: string, reason: string, message: string): void {
    const action = 'CONNECT';
    this.#settings.audit.record({
      caller,
      action,
      decision: 'DENIED',
      reason,
      subject: '',
      message,
    });
  }
}

/** The same for a socket and for what TLS and HTTP/2 put around it. */
function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { FRAME, frame } from '../channel/frames.js';
import { toldAs } from '../channel/socket-join.js';
import { formatAddress } from '../util/address.js';
import type { AuditLog } from '../util/audit.js';
import { deferred } from '../util/deferred.js';
import type { ReasonedError } from '../util/reasoned-error.js';
import { STREAM_PROTOCOL } from './data-dial.js';
import { RpcError } from './errors.js';
import { assertNotExpired, type Caller, readCaller } from './identity.js';
import { TICKET_LIMIT_MS, UNADMITTED, UNADMITTED_PER_ADDRESS } from './limits.js';
import { contextOptions, type TlsMaterial } from './tls-material.js';

/** The longest line that can be a ticket, its end included. */
const TICKET_BYTES = 64;

const LINE_END = 0x0a;

/** How a data door is made. */
export interface DataDoorSettings {
  /** An address of this host. */
  readonly address: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly material: TlsMaterial;
  readonly audit: AuditLog;
  /** The default is ten seconds. */
  readonly ticketLimitMs?: number | undefined;
  /**
   * Takes the connection of whoever brings this ticket.
   *
   * @throws ReasonedError where the ticket is not good, or is another host's
   */
  admit(ticket: string, host: string, stream: TLSSocket): void;
}

/** A connection that has not shown a ticket yet. */
interface Waiting {
  readonly socket: Socket;
  readonly address: string;
  readonly timer: NodeJS.Timeout;
  /** True where this end ends it, so that nobody wonders why. */
  ended: boolean;
}

/**
 * Where other agents bring streams: TLS 1.3 with certificates of both sides, then one line with a
 * ticket. What comes after that is none of the door's.
 */
export class DataDoor {
  readonly #settings: DataDoorSettings;
  readonly #server: Server;
  readonly #trustDomain: string;
  readonly #waiting = new Map<string, Waiting>();
  /** Those that have gone, too, for what is told late. */
  readonly #bySocket = new WeakMap<Socket, Waiting>();

  private constructor(settings: DataDoorSettings) {
    const { material, ticketLimitMs = TICKET_LIMIT_MS } = settings;
    this.#settings = settings;
    this.#trustDomain = material.identity.trustDomain;
    this.#server = createServer({
      ...contextOptions(material),
      requestCert: true,
      // An environment variable of Node's would take anybody otherwise.
      rejectUnauthorized: true,
      ALPNProtocols: [STREAM_PROTOCOL],
      // The limit for the ticket comes first, and covers this.
      handshakeTimeout: 2 * ticketLimitMs,
      noDelay: true,
      keepAlive: true,
    });
    this.#server.on('connection', (socket: Socket) => this.#accept(socket));
    this.#server.on('tlsClientError', (error, stream) => this.#handshakeFailed(error, stream));
    this.#server.on('secureConnection', (stream) => this.#identify(stream));
  }

  /** @throws RpcError `CONFIG_INVALID` where the place to listen is taken */
  static async open(settings: DataDoorSettings): Promise<DataDoor> {
    const { address, port } = settings;
    const door = new DataDoor(settings);
    const listening = deferred();
    door.#server.once('error', listening.reject);
    door.#server.listen({ host: address, port }, listening.resolve);
    try {
      await listening.promise;
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      const place = formatAddress({ host: address, port });
      const message = `The data door cannot be opened at ${place}: ${why}.`;
      throw new RpcError('CONFIG_INVALID', message, { cause });
    }
    door.#server.on('error', () => undefined);
    return door;
  }

  get port(): number {
    const at = this.#server.address();
    return typeof at === 'object' && at ? at.port : 0;
  }

  /** Connections that have not shown a good ticket yet. */
  get unadmitted(): number {
    return this.#waiting.size;
  }

  /** Uses other certificates for new connections. */
  use(material: TlsMaterial): void {
    this.#server.setSecureContext(contextOptions(material));
  }

  /** Streams that were admitted go on. */
  close(): void {
    this.#server.close();
    for (const { socket } of this.#waiting.values()) socket.destroy();
  }

  #accept(socket: Socket): void {
    const { ticketLimitMs = TICKET_LIMIT_MS } = this.#settings;
    const { remoteAddress: address = 'unknown' } = socket;
    // Without any listener an error that nobody expects would end the process.
    socket.on('error', () => undefined);
    const full = this.#full(address);
    if (full !== undefined) {
      // Nothing can be said to somebody who has not shown a certificate.
      this.#deny(address, 'CONNECT', 'LIMIT_REACHED', `The connection was closed: ${full}.`);
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    const late = () => {
      waiting.ended = true;
      const message = `It was closed, for it showed no ticket within ${ticketLimitMs} ms.`;
      this.#deny(address, 'CONNECT', 'LIMIT_REACHED', message);
      socket.destroy();
    };
    const timer = setTimeout(late, ticketLimitMs).unref();
    const waiting = { socket, address, timer, ended: false };
    this.#waiting.set(key, waiting);
    this.#bySocket.set(socket, waiting);
    socket.once('close', () => this.#settle(key));
  }

  #full(address: string): string | undefined {
    if (this.#waiting.size >= UNADMITTED) return `${UNADMITTED} wait at the data door`;
    const own = [...this.#waiting.values()].filter((waiting) => waiting.address === address);
    if (own.length < UNADMITTED_PER_ADDRESS) return undefined;
    return `${UNADMITTED_PER_ADDRESS} of this address wait at the data door`;
  }

  /** It waits no longer: it was admitted, or has gone. */
  #settle(key: string): void {
    clearTimeout(this.#waiting.get(key)?.timer);
    this.#waiting.delete(key);
  }

  #handshakeFailed(error: Error, stream: TLSSocket): void {
    // A TLS socket that has ended no longer says where it led; what lies beneath it still does.
    const beneath = (stream as { readonly _parent?: Socket })._parent;
    const waiting = beneath && this.#bySocket.get(beneath);
    if (waiting?.ended) return;
    const { code } = error as NodeJS.ErrnoException;
    const why = stream.authorizationError ?? code ?? error.message;
    const message = `The TLS handshake failed: ${why}.`;
    this.#deny(waiting?.address ?? 'unknown', 'CONNECT', 'TLS_PEER_REJECTED', message);
  }

  #identify(stream: TLSSocket): void {
    stream.on('error', () => undefined);
    const key = keyOf(stream);
    const address = this.#waiting.get(key)?.address ?? 'unknown';
    let caller: Caller;
    try {
      caller = this.#callerOf(stream);
    } catch (error) {
      this.#refuse(stream, address, error as ReasonedError);
      return;
    }
    const name = `${caller.role}/${caller.name}`;
    readTicket(stream, (ticket) => {
      try {
        if (ticket === undefined) throw denied('A stream begins with its ticket.');
        if (caller.role !== 'host') throw denied('Streams are for hosts.');
        this.#settings.admit(ticket, caller.name, stream);
        this.#settle(key);
        this.#record(name, 'STREAM', 'ALLOWED', 'OK', '');
      } catch (error) {
        this.#refuse(stream, name, error as ReasonedError);
      }
    });
  }

  /** TLS has found the certificate to be of the CA. */
  #callerOf(stream: TLSSocket): Caller {
    const { raw } = stream.getPeerCertificate();
    if (!stream.authorized || !raw) throw denied('There is no certificate.');
    assertNotExpired(raw);
    return readCaller(raw, this.#trustDomain);
  }

  /** What is left of the connection ends by itself, or with the time that it has for its ticket. */
  #refuse(stream: TLSSocket, caller: string, error: ReasonedError): void {
    this.#deny(caller, 'STREAM', error.reason, error.message);
    const waiting = this.#waiting.get(keyOf(stream));
    if (waiting) waiting.ended = true;
    stream.resume();
    stream.end(frame(FRAME.broken, toldAs(error)), () => stream.destroySoon());
  }

  #deny(caller: string, action: string, reason: string, message: string): void {
    this.#record(caller, action, 'DENIED', reason, message);
  }

  #record(
    caller: string,
    action: string,
    decision: 'ALLOWED' | 'DENIED',
    reason: string,
    message: string,
  ): void {
    this.#settings.audit.record({ caller, action, decision, reason, subject: '', message });
  }
}

/** Answers the first line, or undefined where what comes is none. */
function readTicket(stream: TLSSocket, take: (ticket: string | undefined) => void): void {
  let line = Buffer.alloc(0);
  const onData = (bytes: Buffer) => {
    const end = bytes.indexOf(LINE_END);
    const part = end < 0 ? bytes : bytes.subarray(0, end);
    const isLong = line.length + part.length >= TICKET_BYTES;
    if (!isLong) line = Buffer.concat([line, part]);
    if (!isLong && end < 0) return;
    stream.pause();
    stream.off('data', onData);
    if (!isLong) stream.unshift(bytes.subarray(end + 1));
    take(isLong ? undefined : line.toString('latin1'));
  };
  stream.on('data', onData);
}

function denied(message: string): RpcError {
  return new RpcError('PERMISSION_DENIED', message);
}

/** The same for a socket and for what TLS puts around it. */
function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

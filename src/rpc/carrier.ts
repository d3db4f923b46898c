import { createHash } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { FRAME, frame } from '../channel/frames.js';
import { SocketJoin } from '../channel/socket-join.js';
import type { Carriage, Carrier, StreamPlace } from '../channel/types.js';
import { connectUnix, OneConnection } from '../channel/unix-socket.js';
import { type AuditLog, noAudit } from '../util/audit.js';
import { untilAborted } from '../util/linked-signal.js';
import { dialDoor } from './data-dial.js';
import { DataDoor } from './data-door.js';
import { RpcError } from './errors.js';
import { materialNow, type TlsSource } from './tls-material.js';

/** The longest that QEMU's socket may take to accept a connection. */
const CONNECT_LIMIT_MS = 5_000;

/** What carriers of both kinds are made with. */
export interface CarrierSettings {
  /** Where the data door is opened, and what others are told. */
  readonly address: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Where it is kept, new connections use what is new. */
  readonly tls: TlsSource;
  /** Where it is recorded who brought which stream; nowhere by default. */
  readonly audit?: AuditLog;
}

/** Settings of a carrier that works in this thread. */
export interface LocalCarrierSettings extends CarrierSettings {
  /** Hears that `endedFirst` of a carriage is known, before anything is done because of that. */
  readonly onEnded?: (carriage: Carriage) => void;
  /** How long the door waits for a ticket; the default is ten seconds. */
  readonly ticketLimitMs?: number;
}

/** A carriage that a ticket is out for. */
interface Expected {
  readonly host: string;
  readonly socketPath: string;
  readonly join: SocketJoin;
}

/** Carries streams in this thread. */
export class LocalCarrier implements Carrier {
  readonly #settings: LocalCarrierSettings;
  readonly #expected = new Map<string, Expected>();
  readonly #joins = new Set<SocketJoin>();
  #door: Promise<DataDoor> | undefined;
  #unfollow: (() => void) | undefined;
  #closed = false;

  constructor(settings: LocalCarrierSettings) {
    this.#settings = settings;
  }

  async door(options: { readonly signal: AbortSignal }): Promise<{
    readonly address: string;
    readonly port: number;
  }> {
    this.#assertOpen();
    this.#door ??= this.#open();
    const { port } = await untilAborted(this.#door, options.signal);
    return { address: this.#settings.address, port };
  }

  expect(ticket: string, host: string, socketPath: string): SocketJoin {
    const key = keyOf(ticket);
    const join = this.#join(() => this.#expected.delete(key));
    if (this.#closed) join.reset(closed());
    else this.#expected.set(key, { host, socketPath, join });
    return join;
  }

  async carry(
    socketPath: string,
    place: StreamPlace,
    options: { readonly signal: AbortSignal },
  ): Promise<SocketJoin> {
    this.#assertOpen();
    const stream = await dialDoor(place, materialNow(this.#settings.tls), options);
    let entrance: OneConnection | undefined;
    const join = this.#join(() => void entrance?.[Symbol.asyncDispose]());
    join.start(stream);
    try {
      this.#assertOpen();
      entrance = await OneConnection.listen(socketPath);
      // Whoever does not wait any more does not know of it.
      options.signal.throwIfAborted();
    } catch (error) {
      join.fail('socket', error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
    if (join.over) void entrance[Symbol.asyncDispose]();
    // It ends when the carriage does.
    entrance.accepted({ signal: new AbortController().signal }).then(
      (socket) => join.attach(socket),
      () => undefined,
    );
    return join;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#unfollow?.();
    for (const join of this.#joins) join.reset(closed());
    const door = await this.#door?.catch(() => undefined);
    door?.close();
  }

  #join(onOver: () => void): SocketJoin {
    const join: SocketJoin = new SocketJoin({
      onEnded: () => this.#settings.onEnded?.(join),
      onOver: () => {
        this.#joins.delete(join);
        onOver();
      },
    });
    this.#joins.add(join);
    return join;
  }

  async #open(): Promise<DataDoor> {
    const { address, port, tls, audit = noAudit, ticketLimitMs } = this.#settings;
    try {
      const door = await DataDoor.open({
        address,
        port,
        audit,
        ticketLimitMs,
        material: materialNow(tls),
        admit: (ticket, host, stream) => this.#admit(ticket, host, stream),
      });
      if ('material' in tls) {
        // It may have changed while the door was opened.
        door.use(tls.material);
        this.#unfollow = tls.onChange((material) => door.use(material));
      }
      return door;
    } catch (error) {
      // The next one who asks tries again.
      this.#door = undefined;
      throw error;
    }
  }

  #admit(ticket: string, host: string, stream: TLSSocket): void {
    const key = keyOf(ticket);
    const expected = this.#expected.get(key);
    if (!expected) throw denied('This ticket opens nothing, or nothing more.');
    if (expected.host !== host) throw denied(`This ticket is not for ${host}.`);
    this.#expected.delete(key);
    void enter(expected, stream);
  }

  #assertOpen(): void {
    if (this.#closed) throw closed();
  }
}

/** Joins QEMU's socket with a stream whose ticket was good. Never rejects. */
async function enter({ join, socketPath }: Expected, stream: TLSSocket): Promise<void> {
  join.start(stream);
  try {
    const signal = AbortSignal.timeout(CONNECT_LIMIT_MS);
    const socket = await connectUnix(socketPath, { signal });
    if (stream.writable) stream.write(frame(FRAME.ready));
    join.attach(socket);
  } catch (error) {
    join.fail('socket', error instanceof Error ? error : new Error(String(error)));
  }
}

/** Tickets are looked up by their hash: how long that takes tells nothing about others. */
function keyOf(ticket: string): string {
  return createHash('sha256').update(ticket).digest('base64');
}

function denied(message: string): RpcError {
  return new RpcError('PERMISSION_DENIED', message);
}

function closed(): RpcError {
  return new RpcError('PEER_LOST', 'The agent is being stopped.');
}

import { timingSafeEqual } from 'node:crypto';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';

/*
 * A connection between two agents that becomes one between two QEMUs: each hands its end on. Until
 * then the one who connects has said one line, the ticket, and got one byte for it. What is said
 * after that is for QEMU, so nothing more is read here.
 */

/** The answer to the right ticket. */
const WELCOME = '+';

/** So long a ticket may take, in milliseconds. */
const TICKET_LIMIT_MS = 5_000;

/**
 * So many may be at the door at once; for one more the first has to go. Whoever has the ticket says
 * it at once, so that nobody can keep the door shut by standing in it.
 */
const GUESTS = 16;

/** A connection on which nothing moves is tried from this time on, in milliseconds. */
const KEEP_ALIVE_MS = 10_000;

/** A port where one connection is awaited, of whoever brings the ticket. */
export class TicketDoor {
  readonly #ticket: Buffer;
  readonly #server: Server;
  readonly #guests = new Set<Socket>();
  readonly #came: Deferred<Socket> = deferred();

  private constructor(ticket: string) {
    this.#ticket = Buffer.from(`${ticket}\n`);
    this.#server = createServer({ noDelay: true }, (socket) => this.#hear(socket));
    this.#came.promise.catch(() => undefined);
  }

  /** Listens there. Rejects with the system's error. */
  static async open(address: string, port: number, ticket: string): Promise<TicketDoor> {
    const door = new TicketDoor(ticket);
    const listening = deferred();
    door.#server.once('error', listening.reject);
    door.#server.listen({ host: address, port, exclusive: true }, listening.resolve);
    await listening.promise;
    return door;
  }

  /** Resolves with the connection, and the door is shut. Rejects when it is shut before. */
  get came(): Promise<Socket> {
    return this.#came.promise;
  }

  close(): void {
    this.#server.close();
    for (const guest of this.#guests) guest.destroy();
    this.#came.reject(new Error('The door is shut.'));
  }

  #hear(socket: Socket): void {
    const drop = () => socket.destroy();
    const timer = setTimeout(drop, TICKET_LIMIT_MS);
    let said: Buffer = Buffer.alloc(0);
    const [first] = this.#guests;
    if (first && this.#guests.size >= GUESTS) first.destroy();
    this.#guests.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      clearTimeout(timer);
      this.#guests.delete(socket);
    });
    const onData = (bytes: Buffer) => {
      said = Buffer.concat([said, bytes]);
      if (said.length < this.#ticket.length) return;
      const isRight = said.length === this.#ticket.length && timingSafeEqual(said, this.#ticket);
      if (!isRight) return drop();
      clearTimeout(timer);
      socket.off('data', onData);
      stopReading(socket);
      this.#guests.delete(socket);
      socket.setKeepAlive(true, KEEP_ALIVE_MS);
      socket.write(WELCOME, (error) => {
        if (error) return drop();
        this.#came.resolve(socket);
        this.close();
      });
    };
    socket.on('data', onData);
  }
}

/**
 * Connects to a door and brings the ticket. The socket that is answered is welcome there, and has
 * not been read from beyond that. Rejects with the system's error, the signal's reason, or an Error
 * where the ticket was refused.
 */
export async function bringTicket(
  { address, port, ticket }: { readonly address: string; readonly port: number; ticket: string },
  options: { readonly signal: AbortSignal },
): Promise<Socket> {
  const silent = () => new Error(`${address}:${port} did not answer in time.`);
  using limit = withTimeout(options.signal, TICKET_LIMIT_MS, silent);
  const welcome = deferred();
  const socket = connect({ host: address, port, noDelay: true }, () => {
    socket.write(`${ticket}\n`);
  });
  socket.on('error', welcome.reject);
  socket.once('close', () => welcome.reject(new Error(`${address}:${port} hung up.`)));
  socket.once('data', (bytes: Buffer) => {
    stopReading(socket);
    if (bytes.toString() === WELCOME) welcome.resolve();
    else welcome.reject(new Error(`What listens on ${address}:${port} is no such door.`));
  });
  try {
    await untilAborted(welcome.promise, limit.signal);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/**
 * Reads nothing any more. A paused stream of Node goes on reading until it is full, and would begin
 * again by itself: it is left to believe that its handle still reads.
 */
function stopReading(socket: Socket): void {
  socket.pause();
  const { _handle: handle } = socket as unknown as {
    readonly _handle: { reading: boolean; readStop(): number } | null;
  };
  if (!handle) return;
  handle.readStop();
  handle.reading = true;
}

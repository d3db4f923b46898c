import { constants } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { createServer, type Server, Socket } from 'node:net';
import { type Deferred, deferred } from '../util/deferred.js';
import { inheritOwner } from '../util/foreign-files.js';
import { untilAborted } from '../util/linked-signal.js';

/** Each direction ends on its own. */
const HALF_OPEN = { allowHalfOpen: true } as const;

/** Opens the thing itself, whatever it is; Node has no name for it. */
const O_PATH = 0o10000000;

/**
 * Connects to the unix socket at `path`, never to one that a link leads to. Rejects with the
 * system's error, or with the signal's reason.
 */
export async function connectUnix(
  path: string,
  options: { readonly signal: AbortSignal },
): Promise<Socket> {
  options.signal.throwIfAborted();
  // Whoever serves the socket may put a link to another one in its place.
  await using place = await open(path, O_PATH | constants.O_NOFOLLOW);
  const socket = new Socket(HALF_OPEN);
  const connected = deferred();
  socket.once('error', connected.reject);
  socket.connect(`/proc/self/fd/${place.fd}`, connected.resolve);
  try {
    await untilAborted(connected.promise, options.signal);
    socket.on('error', ignore);
    socket.off('error', connected.reject);
    return socket;
  } catch (error) {
    socket.on('error', ignore);
    socket.destroy();
    throw error;
  }
}

/** Listens on a unix socket for exactly one connection; the path is gone once it has come. */
export class OneConnection implements AsyncDisposable {
  readonly #server: Server;
  readonly #path: string;
  readonly #socket: Deferred<Socket> = deferred();
  #taken = false;

  private constructor(path: string) {
    this.#path = path;
    this.#socket.promise.catch(ignore);
    this.#server = createServer(HALF_OPEN, (socket) => {
      socket.on('error', ignore);
      if (this.#taken) {
        socket.destroy();
        return;
      }
      this.#taken = true;
      this.#close();
      this.#socket.resolve(socket);
    });
  }

  /**
   * `path` has at most 107 bytes; a socket that an earlier run left there is replaced. It may be
   * connected to by the owner of its folder.
   */
  static async listen(path: string): Promise<OneConnection> {
    await rm(path, { force: true });
    const door = new OneConnection(path);
    const listening = deferred();
    door.#server.once('error', listening.reject);
    door.#server.listen(path, listening.resolve);
    await listening.promise;
    await inheritOwner(path);
    return door;
  }

  get path(): string {
    return this.#path;
  }

  /** Resolves with the connection, whenever it comes. */
  accepted(options: { readonly signal: AbortSignal }): Promise<Socket> {
    return untilAborted(this.#socket.promise, options.signal);
  }

  /** Stops listening; a connection that has come lives on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    this.#socket.reject(new Error(`Nobody listens on ${this.#path} any more.`));
  }

  /** Removes the path, too, and at once: afterwards it may be another one's. */
  #close(): void {
    if (this.#server.listening) this.#server.close();
  }
}

function ignore(): void {
  // Whoever uses the socket hears of its errors; without any listener Node would end the process.
}

import { createServer, type Server, type Socket } from 'node:net';
import { MessageDecoder } from '../../../src/qmp/codec.js';
import { takenWith, taking } from '../handed-sockets.js';
import { FakeQmpError } from './errors.js';
import { removeSocket } from './incoming.js';

/** Runs one command for a monitor and returns its result; throws FakeQmpError to refuse it. */
export type RunCommand = (
  command: string,
  args: Readonly<Record<string, unknown>>,
  oob: boolean,
) => Promise<unknown>;

interface Connection {
  readonly socket: Socket;
  /** Handed over, and not asked for yet. */
  readonly handed: Socket[];
  negotiated: boolean;
}

/**
 * One monitor socket of a fake QEMU. It serves one client at a time; the next one waits unanswered.
 */
export class Monitor {
  readonly path: string;
  readonly #server: Server;
  readonly #run: RunCommand;
  readonly #waiting: Socket[] = [];
  #connection: Connection | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(path: string, run: RunCommand) {
    this.path = path;
    this.#run = run;
    this.#server = createServer({ pauseOnConnect: true }, (accepted) => {
      const socket = taking(accepted);
      socket.on('error', () => undefined);
      this.#waiting.push(socket);
      socket.once('close', () => {
        const index = this.#waiting.indexOf(socket);
        if (index >= 0) this.#waiting.splice(index, 1);
      });
      this.#serveNext();
    });
  }

  listen(): Promise<void> {
    removeSocket(this.path);
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.path, () => resolve());
    });
  }

  sendEvent(event: string, data: Readonly<Record<string, unknown>>, timestampUs: number): void {
    if (!this.#connection?.negotiated) return;
    const timestamp = {
      seconds: Math.floor(timestampUs / 1_000_000),
      microseconds: Math.floor(timestampUs % 1_000_000),
    };
    send(this.#connection.socket, { timestamp, event, data });
  }

  /** Drops its client; another one may connect. */
  drop(): void {
    this.#connection?.socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.#connection?.socket.destroy();
    for (const socket of this.#waiting) socket.destroy();
  }

  #serveNext(): void {
    if (this.#connection) return;
    const socket = this.#waiting.shift();
    if (!socket) return;
    const connection: Connection = { socket, handed: [], negotiated: false };
    this.#connection = connection;
    const decoder = new MessageDecoder();
    socket.on('data', (chunk) => {
      const handed = takenWith(socket);
      if (handed) connection.handed.push(handed);
      for (const message of decoder.push(chunk)) this.#take(connection, message);
    });
    socket.once('close', () => {
      this.#connection = undefined;
      this.#serveNext();
    });
    send(socket, {
      QMP: {
        version: { qemu: { major: 10, minor: 0, micro: 2 }, package: 'fake' },
        capabilities: ['oob'],
      },
    });
  }

  #take(connection: Connection, message: Readonly<Record<string, unknown>>): void {
    const oob = message['exec-oob'] !== undefined;
    const command = String(message[oob ? 'exec-oob' : 'execute']);
    const args = (message['arguments'] ?? {}) as Readonly<Record<string, unknown>>;
    const socket = command === 'getfd' ? connection.handed.shift() : undefined;
    const work = async () => {
      try {
        send(connection.socket, {
          return: await this.#execute(
            connection,
            command,
            socket ? { ...args, socket } : args,
            oob,
          ),
          id: message['id'],
        });
      } catch (error) {
        const errorClass = error instanceof FakeQmpError ? error.errorClass : 'GenericError';
        const desc = error instanceof Error ? error.message : String(error);
        send(connection.socket, { id: message['id'], error: { class: errorClass, desc } });
      }
    };
    // Commands run one after the other; out-of-band ones do not wait.
    if (oob) void work();
    else this.#last = this.#last.then(work);
  }

  async #execute(
    connection: Connection,
    command: string,
    args: Readonly<Record<string, unknown>>,
    oob: boolean,
  ): Promise<unknown> {
    if (command === 'qmp_capabilities') {
      connection.negotiated = true;
      return {};
    }
    if (!connection.negotiated) {
      throw new FakeQmpError(
        "Expecting capabilities negotiation with 'qmp_capabilities'",
        'CommandNotFound',
      );
    }
    return this.#run(command, args, oob);
  }
}

function send(socket: Socket, message: object): void {
  if (socket.writable) socket.write(`${JSON.stringify(message)}\r\n`);
}

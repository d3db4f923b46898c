import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { encodeMessage, type JsonObject } from './codec.js';
import { QmpClosedError, QmpError, QmpProtocolError, QmpTimeoutError } from './errors.js';
import { EventListener, type QmpEventName } from './event-listener.js';
import { unblock, writeWithSocket } from './handing-pipe.js';
import { type Greeting, parseEvent, parseGreeting } from './messages.js';
import { redact } from './redact.js';
import type { QmpCommands, QmpOobCommand } from './types.gen.js';
import { Wire } from './wire.js';

/** The commands that the client knows by type. */
export type QmpCommandName = keyof QmpCommands;

/** How one command is sent. */
export interface ExecuteOptions {
  /** Stops the waiting, not the command: QEMU has no way to take a command back. */
  readonly signal?: AbortSignal;
  /** Milliseconds until QmpTimeoutError. Default: the client's, 10 000. */
  readonly limitMs?: number;
}

type Rest<C extends QmpCommandName> =
  Record<string, never> extends QmpCommands[C]['arguments']
    ? [args?: QmpCommands[C]['arguments'], options?: ExecuteOptions]
    : [args: QmpCommands[C]['arguments'], options?: ExecuteOptions];

/** Hears every message, in order, with secrets replaced. For logs at trace level. */
export type Transcript = (direction: 'sent' | 'received', message: unknown) => void;

/** How to connect. */
export interface ConnectOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds for connecting and for the greeting. Default 10 000. */
  readonly connectLimitMs?: number;
  /** Default time limit of a command in milliseconds. Default 10 000. */
  readonly commandLimitMs?: number;
  readonly transcript?: Transcript;
  /** Largest message taken, in bytes. Default 16 MiB. */
  readonly messageLimitBytes?: number;
}

interface Pending {
  readonly command: string;
  readonly answer: Deferred<unknown>;
}

const DEFAULT_LIMIT_MS = 10_000;

/**
 * Most commands in flight. QEMU stops reading a monitor once eight wait in its queue, and then an
 * out-of-band command, which is meant for the moment when everything is stuck, would not be read
 * either.
 */
const IN_FLIGHT_LIMIT = 7;

/** One connection to one QEMU monitor. Commands may overlap; each finds its answer by id. */
export class QmpClient implements AsyncDisposable {
  readonly greeting: Greeting;
  /** Resolves, never rejects, when the connection has ended, with the reason. */
  readonly closed: Promise<QmpClosedError>;

  readonly #socket: Socket;
  readonly #options: ConnectOptions;
  readonly #closing: Deferred<QmpClosedError>;
  readonly #pending: Map<string, Pending>;
  readonly #listeners = new Set<Pick<EventListener<QmpEventName>, 'offer' | 'fail'>>();
  readonly #waitingForTurn: Deferred<void>[] = [];
  /** Ends all ids of this connection: QEMU answers here what an earlier client asked for last. */
  readonly #mark = `-${randomBytes(4).toString('hex')}`;
  #inFlight = 0;
  #nextId = 1;
  #end: QmpClosedError | undefined;

  private constructor(wire: Wire, greeting: Greeting, options: ConnectOptions) {
    this.greeting = greeting;
    this.#socket = wire.socket;
    this.#options = options;
    this.#pending = new Map();
    this.#closing = deferred();
    this.closed = this.#closing.promise;
    wire.onMessage = (message) => this.#receive(message);
    wire.onEnd = (error) => this.#ended(error);
  }

  /**
   * Connects to the monitor socket at `path` and negotiates; out-of-band commands are enabled where
   * offered. Rejects with QmpClosedError if nobody listens, QmpTimeoutError if the monitor is
   * silent: it serves one client at a time.
   */
  static async connect(path: string, options: ConnectOptions = {}): Promise<QmpClient> {
    const limitMs = options.connectLimitMs ?? DEFAULT_LIMIT_MS;
    using limit = withTimeout(
      options.signal,
      limitMs,
      () => new QmpTimeoutError(`its greeting on ${path}`, limitMs),
    );
    const wire = new Wire(path, options.messageLimitBytes);
    try {
      const greeting = parseGreeting(await untilAborted(wire.first, limit.signal));
      const client = new QmpClient(wire, greeting, options);
      await client.execute('qmp_capabilities', greeting.oob ? { enable: ['oob'] } : {}, {
        signal: limit.signal,
        limitMs,
      });
      return client;
    } catch (error) {
      wire.socket.destroy();
      throw error;
    }
  }

  /**
   * Sends a command and returns QEMU's answer. Rejects with QmpError if QEMU refuses it,
   * QmpTimeoutError, QmpClosedError, or the signal's reason.
   */
  async execute<C extends QmpCommandName>(
    command: C,
    ...[args, options]: Rest<C>
  ): Promise<QmpCommands[C]['return']> {
    const limitMs = this.#limitMs(options);
    using limit = withTimeout(options?.signal, limitMs, () => this.#timeout(command, limitMs));
    await this.#turn(limit.signal);
    return await this.#send('execute', command, args, limit.signal);
  }

  /** Sends a command that QEMU runs at once, even while its main loop is stuck. */
  async executeOob<C extends QmpOobCommand>(
    command: C,
    ...[args, options]: Rest<C>
  ): Promise<QmpCommands[C]['return']> {
    if (!this.greeting.oob)
      throw new QmpError(command, 'CommandNotFound', 'this monitor has no out-of-band commands');
    const limitMs = this.#limitMs(options);
    using limit = withTimeout(options?.signal, limitMs, () => this.#timeout(command, limitMs));
    limit.signal.throwIfAborted();
    return await this.#send('exec-oob', command, args, limit.signal);
  }

  /**
   * Hands a connected socket to QEMU, which knows it by `name` from then on and closes it when it
   * is told to. The caller's own socket is not to be read from any more, and is destroyed.
   *
   * @throws QmpError where QEMU does not take it
   */
  async handOver(socket: Socket, name: string, options?: ExecuteOptions): Promise<void> {
    const limitMs = this.#limitMs(options);
    using limit = withTimeout(options?.signal, limitMs, () => this.#timeout('getfd', limitMs));
    try {
      await this.#turn(limit.signal);
      await this.#send('execute', 'getfd', { fdname: name }, limit.signal, socket);
      unblock(socket);
    } finally {
      socket.destroy();
    }
  }

  /** Starts to collect events of these names. Call it before the command that causes them. */
  listen<E extends QmpEventName>(...names: readonly E[]): EventListener<E> {
    const listener: EventListener<E> = new EventListener(names, () =>
      this.#listeners.delete(listener),
    );
    if (this.#end) listener.fail(this.#end);
    else this.#listeners.add(listener);
    return listener;
  }

  /** False once the connection has ended. */
  get isOpen(): boolean {
    return this.#end === undefined;
  }

  /** Ends the connection; QEMU goes on. Everything in flight rejects with QmpClosedError. */
  async close(): Promise<void> {
    this.#ended(undefined);
    this.#socket.destroy();
    await this.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #limitMs(options: ExecuteOptions | undefined): number {
    return options?.limitMs ?? this.#options.commandLimitMs ?? DEFAULT_LIMIT_MS;
  }

  #timeout(command: string, limitMs: number): Error {
    return new QmpTimeoutError(`an answer to ${command}`, limitMs);
  }

  /**
   * Waits for one of the places in flight. Whoever gets it returns it when the answer comes, not
   * when it gives up.
   */
  async #turn(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    // Nothing is answered any more, so no place would ever be free: `#send` tells the caller.
    if (this.#end) return;
    if (this.#inFlight < IN_FLIGHT_LIMIT) {
      this.#inFlight++;
      return;
    }
    const turn = deferred();
    this.#waitingForTurn.push(turn);
    try {
      await untilAborted(turn.promise, signal);
    } catch (error) {
      const index = this.#waitingForTurn.indexOf(turn);
      if (index >= 0) this.#waitingForTurn.splice(index, 1);
      else this.#endTurn();
      throw error;
    }
  }

  #endTurn(): void {
    const next = this.#waitingForTurn.shift();
    if (next) next.resolve();
    else this.#inFlight--;
  }

  async #send(
    verb: 'execute' | 'exec-oob',
    command: string,
    args: object | undefined,
    signal: AbortSignal,
    handed?: Socket,
  ): Promise<never> {
    if (this.#end) throw this.#closedDuring(command, this.#end);
    const id = `${verb === 'execute' ? 'c' : 'o'}${this.#nextId++}${this.#mark}`;
    const message = {
      [verb]: command,
      ...(args && Object.keys(args).length > 0 ? { arguments: args } : {}),
      id,
    };
    const answer = deferred<unknown>();
    this.#pending.set(id, { command, answer });
    this.#options.transcript?.('sent', redact(message));
    try {
      if (handed) writeWithSocket(this.#socket, encodeMessage(message), handed);
      else this.#socket.write(encodeMessage(message));
    } catch (error) {
      this.#pending.delete(id);
      if (verb === 'execute') this.#endTurn();
      throw error;
    }
    return (await untilAborted(answer.promise, signal)) as never;
  }

  #receive(message: JsonObject): void {
    this.#options.transcript?.('received', redact(message));
    if (typeof message['event'] === 'string') {
      const event = parseEvent(message);
      for (const listener of this.#listeners) listener.offer(event);
      return;
    }
    const id = message['id'];
    const pending = typeof id === 'string' ? this.#pending.get(id) : undefined;
    if (typeof id === 'string' && !id.endsWith(this.#mark)) return;
    if (typeof id !== 'string' || !pending)
      throw new QmpProtocolError('QEMU sent an answer to no question.');
    this.#pending.delete(id);
    if (id.startsWith('c')) this.#endTurn();
    const error = message['error'] as { class?: unknown; desc?: unknown } | undefined;
    if (error) {
      pending.answer.reject(new QmpError(pending.command, String(error.class), String(error.desc)));
    } else {
      pending.answer.resolve(message['return']);
    }
  }

  #ended(cause: unknown): void {
    if (this.#end) return;
    const end = new QmpClosedError(
      cause === undefined ? 'The connection to QEMU was closed.' : 'The connection to QEMU broke.',
      { cause },
    );
    this.#end = end;
    for (const { command, answer } of this.#pending.values()) {
      // Nobody may be waiting any more: its command timed out or was aborted.
      answer.promise.catch(() => undefined);
      answer.reject(this.#closedDuring(command, end));
    }
    this.#pending.clear();
    // Those that wait for their turn go on and find the connection ended.
    for (const turn of this.#waitingForTurn.splice(0)) turn.resolve();
    for (const listener of this.#listeners) listener.fail(end);
    this.#listeners.clear();
    this.#closing.resolve(end);
  }

  #closedDuring(command: string, end: QmpClosedError): QmpClosedError {
    return new QmpClosedError(`The connection to QEMU ended before the answer to ${command}.`, {
      command,
      cause: end.cause ?? end,
    });
  }
}

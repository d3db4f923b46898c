import { Worker } from 'node:worker_threads';
import type { Carriage, CarriageTotals, Carrier, StreamPlace } from '../channel/types.js';
import { noAudit } from '../util/audit.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { untilAborted } from '../util/linked-signal.js';
import type { CarrierSettings } from './carrier.js';
import {
  errorFromWire,
  errorToWire,
  type FromWorker,
  SharedState,
  type ToWorker,
  type WorkerStart,
} from './carrier-messages.js';
import { RpcError } from './errors.js';
import { materialNow } from './tls-material.js';

/**
 * MiB of garbage-collected memory. Carrying takes next to none: its bytes lie in buffers outside,
 * and what is left over soon is collected soon.
 */
const LIMITS = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64, stackSizeMb: 1 };

const isCompiled = !import.meta.url.endsWith('.ts');

/** The longest that a worker may take to end by itself. */
const CLOSE_LIMIT_MS = 3_000;

/**
 * Carries streams in a worker thread, which is started at the first need and does not keep the
 * process alive. When it ends by a fault, its carriages break, and the next need starts another.
 */
export class WorkerCarrier implements Carrier {
  readonly #settings: CarrierSettings;
  #running: CarrierWorker | undefined;
  #closed = false;

  constructor(settings: CarrierSettings) {
    this.#settings = settings;
  }

  /** True from the first need on. */
  get started(): boolean {
    return this.#running !== undefined;
  }

  async door(options: { readonly signal: AbortSignal }): Promise<{
    readonly address: string;
    readonly port: number;
  }> {
    const ask = (id: number): ToWorker => ({ type: 'door', id });
    return (await this.#worker().ask(ask, options.signal)) as { address: string; port: number };
  }

  expect(ticket: string, host: string, socketPath: string): Carriage {
    const worker = this.#worker();
    return worker.add((key, state) =>
      worker.post({ type: 'expect', key, state, ticket, host, socketPath }),
    );
  }

  async carry(
    socketPath: string,
    place: StreamPlace,
    options: { readonly signal: AbortSignal },
  ): Promise<Carriage> {
    const worker = this.#worker();
    let answered: Promise<unknown> | undefined;
    const carriage = worker.add((key, state) => {
      const ask = (id: number): ToWorker => ({ type: 'carry', id, key, state, socketPath, place });
      answered = worker.ask(ask, options.signal);
    });
    try {
      await answered;
      return carriage;
    } catch (error) {
      // It may have begun meanwhile.
      carriage.reset(error as Error);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#running?.close();
  }

  #worker(): CarrierWorker {
    if (this.#closed) throw new RpcError('PEER_LOST', 'The agent is being stopped.');
    this.#running ??= new CarrierWorker(this.#settings, (worker) => {
      if (this.#running === worker) this.#running = undefined;
    });
    return this.#running;
  }
}

/** One worker, from its start to its end. */
class CarrierWorker {
  readonly #worker: Worker;
  readonly #settings: CarrierSettings;
  readonly #answers = new Map<number, Deferred<unknown>>();
  readonly #carriages = new Map<number, RemoteCarriage>();
  readonly #exited = deferred();
  readonly #unfollow: (() => void) | undefined;
  #last = 0;
  #fault: unknown;

  constructor(settings: CarrierSettings, onEnd: (worker: CarrierWorker) => void) {
    const { address, port, tls } = settings;
    this.#settings = settings;
    const start: WorkerStart = { address, port, material: materialNow(tls) };
    this.#worker = new Worker(program(), {
      workerData: start,
      resourceLimits: LIMITS,
      name: 'carrier',
      // A loader of this process would be in the way of the thread's own.
      ...(isCompiled ? {} : { execArgv: [] }),
    });
    this.#worker.unref();
    this.#worker.on('message', (message: FromWorker) => this.#take(message));
    this.#worker.on('error', (error) => {
      this.#fault = error;
    });
    this.#worker.once('exit', () => {
      onEnd(this);
      this.#end();
    });
    if ('material' in tls) {
      this.#unfollow = tls.onChange((material) => this.post({ type: 'material', material }));
    }
  }

  post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  /** Asks for something and waits for the answer. */
  async ask(message: (id: number) => ToWorker, signal: AbortSignal): Promise<unknown> {
    signal.throwIfAborted();
    const id = ++this.#last;
    const answer = deferred<unknown>();
    this.#answers.set(id, answer);
    this.post(message(id));
    try {
      return await untilAborted(answer.promise, signal);
    } finally {
      if (this.#answers.delete(id)) this.post({ type: 'abort', id });
    }
  }

  /** A carriage that the worker is told to begin. */
  add(begin: (key: number, state: SharedArrayBuffer) => void): Carriage {
    const key = ++this.#last;
    const state = new SharedState();
    const carriage = new RemoteCarriage(state, (reason) => {
      this.#carriages.delete(key);
      this.post({ type: 'reset', key, error: errorToWire(reason) });
    });
    this.#carriages.set(key, carriage);
    begin(key, state.memory);
    return carriage;
  }

  async close(): Promise<void> {
    this.post({ type: 'close' });
    const timer = setTimeout(() => void this.#worker.terminate(), CLOSE_LIMIT_MS);
    await this.#exited.promise;
    clearTimeout(timer);
  }

  #take(message: FromWorker): void {
    switch (message.type) {
      case 'answer':
        this.#answered(message.id)?.resolve(message.value);
        break;
      case 'failed':
        this.#answered(message.id)?.reject(errorFromWire(message.error));
        break;
      case 'done':
        this.#carriage(message.key)?.end(message.totals);
        break;
      case 'broken':
        this.#carriage(message.key)?.break(errorFromWire(message.error));
        break;
      case 'audit':
        (this.#settings.audit ?? noAudit).record(message.event);
        break;
    }
  }

  #answered(id: number): Deferred<unknown> | undefined {
    const answer = this.#answers.get(id);
    this.#answers.delete(id);
    return answer;
  }

  #carriage(key: number): RemoteCarriage | undefined {
    const carriage = this.#carriages.get(key);
    this.#carriages.delete(key);
    return carriage;
  }

  #end(): void {
    this.#unfollow?.();
    const why = this.#fault instanceof Error ? `: ${this.#fault.message}` : '';
    const message = `The thread that carries streams ended${why}.`;
    const error = new RpcError('PEER_LOST', message, { cause: this.#fault });
    for (const answer of this.#answers.values()) answer.reject(error);
    for (const carriage of this.#carriages.values()) carriage.break(error);
    this.#answers.clear();
    this.#carriages.clear();
    this.#exited.resolve();
  }
}

/** A carriage of the worker's. */
class RemoteCarriage implements Carriage {
  readonly #state: SharedState;
  readonly #reset: (reason: Error) => void;
  readonly #done: Deferred<CarriageTotals> = deferred();
  #over = false;

  constructor(state: SharedState, reset: (reason: Error) => void) {
    this.#state = state;
    this.#reset = reset;
    // A failure is told to whoever awaits `done`; nobody must.
    this.#done.promise.catch(() => undefined);
  }

  get done(): Promise<CarriageTotals> {
    return this.#done.promise;
  }

  get endedFirst(): Carriage['endedFirst'] {
    return this.#state.endedFirst;
  }

  get answeredBytes(): number {
    return this.#state.answeredBytes;
  }

  get carriedBytes(): number {
    return this.#state.carriedBytes;
  }

  reset(reason: Error): void {
    if (this.#over) return;
    this.#reset(reason);
    this.break(reason);
  }

  end(totals: CarriageTotals): void {
    this.#over = true;
    this.#done.resolve(totals);
  }

  break(reason: Error): void {
    this.#over = true;
    this.#done.reject(reason);
  }
}

/** What the worker runs. */
function program(): URL {
  if (isCompiled) return new URL('./carrier-thread.js', import.meta.url);
  // Not compiled: a thread gets a loader of its own, which it must ask for first.
  const loader = JSON.stringify(import.meta.resolve('tsx/esm/api'));
  const main = JSON.stringify(new URL('./carrier-thread.ts', import.meta.url).href);
  const code = `import { register } from ${loader}; register(); await import(${main});`;
  return new URL(`data:text/javascript,${encodeURIComponent(code)}`);
}

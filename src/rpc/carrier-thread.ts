import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { Carriage } from '../channel/types.js';
import { LocalCarrier } from './carrier.js';
import {
  errorFromWire,
  errorToWire,
  type FromWorker,
  SharedState,
  type ToWorker,
  type WorkerStart,
} from './carrier-messages.js';
import type { CurrentTls, TlsMaterial } from './tls-material.js';

/*
 * The thread in which an agent's streams are carried, so that no byte of them delays a migration's
 * events.
 */

/** So often it is written down how far the carriages are. */
const TELL_MS = 250;

/** So long after the last stream its memory is given back. */
const IDLE_MS = 1_000;

/**
 * The buffers of streams lie outside the heap, and Node lets 64 MiB of them gather before it looks
 * which are of use. Here that is known.
 */
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** The certificates as the agent last told them. */
class ToldTls implements CurrentTls {
  readonly #listeners = new Set<(material: TlsMaterial) => void>();
  #material: TlsMaterial;

  constructor(material: TlsMaterial) {
    this.#material = asBuffers(material);
  }

  get material(): TlsMaterial {
    return this.#material;
  }

  set material(material: TlsMaterial) {
    this.#material = asBuffers(material);
    for (const listener of this.#listeners) listener(this.#material);
  }

  onChange(listener: (material: TlsMaterial) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

/** A buffer that has travelled is one no more. */
function asBuffers({ certificate, key, ca, identity }: TlsMaterial): TlsMaterial {
  const [whole, secret, authority] = [certificate, key, ca].map((bytes) => Buffer.from(bytes));
  return {
    certificate: whole as Buffer,
    key: secret as Buffer,
    ca: authority as Buffer,
    identity,
  };
}

/** One agent's streams. */
class CarrierThread {
  readonly #tell: (message: FromWorker) => void;
  readonly #tls: ToldTls;
  readonly #carrier: LocalCarrier;
  readonly #carriages = new Map<number, Carriage>();
  readonly #states = new Map<Carriage, SharedState>();
  readonly #waits = new Map<number, AbortController>();
  readonly #timer: NodeJS.Timeout;
  #idle: NodeJS.Timeout | undefined;
  readonly #leave: () => void;

  constructor({ address, port, material }: WorkerStart, agent: MessagePort) {
    const tell = (message: FromWorker) => agent.postMessage(message);
    this.#tell = tell;
    // Without it the thread ends when its last stream has.
    this.#leave = () => agent.close();
    this.#tls = new ToldTls(material);
    this.#carrier = new LocalCarrier({
      address,
      port,
      tls: this.#tls,
      audit: { record: (event) => tell({ type: 'audit', event }) },
      onEnded: (carriage) => this.#states.get(carriage)?.take(carriage),
    });
    this.#timer = setInterval(() => {
      for (const [carriage, state] of this.#states) state.take(carriage);
    }, TELL_MS);
  }

  /** Does what the agent asks. */
  take(message: ToWorker): void {
    switch (message.type) {
      case 'material':
        this.#tls.material = message.material;
        break;
      case 'door':
        this.#answer(message.id, (signal) => this.#carrier.door({ signal }));
        break;
      case 'expect': {
        const { key, ticket, host, socketPath, state } = message;
        this.#follow(key, state, this.#carrier.expect(ticket, host, socketPath));
        break;
      }
      case 'carry': {
        const { key, place, socketPath, state } = message;
        this.#answer(message.id, async (signal) => {
          this.#follow(key, state, await this.#carrier.carry(socketPath, place, { signal }));
        });
        break;
      }
      case 'abort':
        this.#waits.get(message.id)?.abort(new Error('Nobody waits for it any more.'));
        break;
      case 'reset':
        this.#carriages.get(message.key)?.reset(errorFromWire(message.error));
        break;
      case 'close':
        clearInterval(this.#timer);
        // By then what breaks because of it has been told.
        void this.#carrier.close().finally(() => setImmediate(this.#leave));
        break;
    }
  }

  #answer(id: number, work: (signal: AbortSignal) => Promise<unknown>): void {
    const wait = new AbortController();
    this.#waits.set(id, wait);
    work(wait.signal)
      .then(
        (value) => this.#tell({ type: 'answer', id, value }),
        (error: unknown) => this.#tell({ type: 'failed', id, error: errorToWire(error) }),
      )
      .finally(() => this.#waits.delete(id));
  }

  #follow(key: number, memory: SharedArrayBuffer, carriage: Carriage): void {
    const state = new SharedState(memory);
    clearTimeout(this.#idle);
    this.#carriages.set(key, carriage);
    this.#states.set(carriage, state);
    state.take(carriage);
    const over = () => {
      state.take(carriage);
      this.#carriages.delete(key);
      this.#states.delete(carriage);
      if (this.#carriages.size === 0) this.#idle = setTimeout(collectGarbage, IDLE_MS).unref();
    };
    carriage.done.then(
      (totals) => {
        over();
        this.#tell({ type: 'done', key, totals });
      },
      (error: unknown) => {
        over();
        this.#tell({ type: 'broken', key, error: errorToWire(error) });
      },
    );
  }
}

if (parentPort) {
  const thread = new CarrierThread(workerData as WorkerStart, parentPort);
  parentPort.on('message', (message: ToWorker) => thread.take(message));
}

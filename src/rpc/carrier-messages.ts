import type { Carriage, CarriageTotals, StreamPlace } from '../channel/types.js';
import type { AuditEvent } from '../util/audit.js';
import { type Facts, ReasonedError, type Side } from '../util/reasoned-error.js';
import type { Reason } from '../util/reasons.js';
import type { CarrierSettings } from './carrier.js';
import type { TlsMaterial } from './tls-material.js';

/*
 * What the agent and its worker that carries streams say to each other. No byte of a stream is
 * among it; how far a carriage is stands in memory that both see.
 */

/** What a worker begins with. */
export interface WorkerStart extends Pick<CarrierSettings, 'address' | 'port'> {
  readonly material: TlsMaterial;
}

/** What an agent asks of its worker. Each `id` is asked once; `key` names a carriage. */
export type ToWorker =
  | { readonly type: 'material'; readonly material: TlsMaterial }
  | { readonly type: 'door'; readonly id: number }
  | ({ readonly type: 'expect'; readonly ticket: string; readonly host: string } & NewCarriage)
  | ({ readonly type: 'carry'; readonly id: number; readonly place: StreamPlace } & NewCarriage)
  /** Nobody waits for the answer any more. */
  | { readonly type: 'abort'; readonly id: number }
  | { readonly type: 'reset'; readonly key: number; readonly error: WireError }
  | { readonly type: 'close' };

/** A carriage that is to be. */
interface NewCarriage {
  readonly key: number;
  readonly socketPath: string;
  readonly state: SharedArrayBuffer;
}

/** What a worker tells its agent. */
export type FromWorker =
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly type: 'failed'; readonly id: number; readonly error: WireError }
  | { readonly type: 'done'; readonly key: number; readonly totals: CarriageTotals }
  | { readonly type: 'broken'; readonly key: number; readonly error: WireError }
  | { readonly type: 'audit'; readonly event: Omit<AuditEvent, 'time'> };

/** An error without what cannot travel. */
export interface WireError {
  readonly message: string;
  readonly code: string | undefined;
  readonly reason: Reason | undefined;
  readonly facts: Facts;
  readonly side: Side | undefined;
  readonly hint: string | undefined;
}

export function errorToWire(error: unknown): WireError {
  const known = error instanceof ReasonedError ? error : undefined;
  return {
    message: error instanceof Error ? error.message : String(error),
    code: (error as NodeJS.ErrnoException).code,
    reason: known?.reason,
    facts: known?.facts ?? {},
    side: known?.side,
    hint: known?.hint,
  };
}

export function errorFromWire({ message, code, reason, facts, side, hint }: WireError): Error {
  if (reason === undefined) return Object.assign(new Error(message), code ? { code } : {});
  return new ReasonedError(reason, message, {
    facts,
    ...(side ? { side } : {}),
    ...(hint === undefined ? {} : { hint }),
  });
}

/** How far a carriage is, where both threads see it. */
export class SharedState {
  static readonly #sides = [undefined, 'socket', 'stream'] as const;
  readonly memory: SharedArrayBuffer;
  /** Bytes carried, and bytes that had come when the stream ended. */
  readonly #bytes: BigUint64Array;
  readonly #side: Int32Array;

  constructor(memory = new SharedArrayBuffer(24)) {
    this.memory = memory;
    this.#bytes = new BigUint64Array(memory, 0, 2);
    this.#side = new Int32Array(memory, 16, 1);
  }

  get carriedBytes(): number {
    return Number(Atomics.load(this.#bytes, 0));
  }

  get answeredBytes(): number {
    return Number(Atomics.load(this.#bytes, 1));
  }

  get endedFirst(): Carriage['endedFirst'] {
    return SharedState.#sides[Atomics.load(this.#side, 0)];
  }

  /** Writes what a carriage says. */
  take(carriage: Carriage): void {
    Atomics.store(this.#bytes, 0, BigInt(carriage.carriedBytes));
    Atomics.store(this.#bytes, 1, BigInt(carriage.answeredBytes));
    // Last: whoever sees this sees the others, too.
    Atomics.store(this.#side, 0, SharedState.#sides.indexOf(carriage.endedFirst));
  }
}

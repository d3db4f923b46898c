import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Carriage, Carrier } from '../channel/types.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { DomainError } from './errors.js';
import type { DiskServerAddress } from './launch-spec.js';
import type { Mirror } from './mirror.js';
import type { WaitOptions } from './types.js';

/** A stream that breaks under QEMU says why within this time, in milliseconds. */
const SAYS_MS = 500;

/** Where the mirrors' bytes go from and to. */
export interface CarriageParts {
  readonly carrier: Carrier;
  /** Private folder of the domain; the sockets' paths must fit into 107 bytes. */
  readonly directory: string;
  readonly server: DiskServerAddress;
}

/** The streams that carry the mirrors of one migration to the destination's data door. */
export class MirrorCarriages {
  readonly #parts: CarriageParts;
  readonly #open = new Map<Mirror, Carriage>();
  #count = 0;

  constructor(parts: CarriageParts) {
    this.#parts = parts;
  }

  /**
   * Connects a mirror's stream and answers the path of the unix socket that QEMU is to connect to.
   * A mirror whose stream ends at the other side fails at once: QEMU itself would notice only when
   * it writes.
   *
   * @throws DomainError `MIRROR_FAILED`
   */
  async open(mirror: Mirror, options: WaitOptions): Promise<string> {
    const { carrier, directory, server } = this.#parts;
    const { address, port, host } = server;
    const path = join(directory, `nbd-${this.#count++}.sock`);
    const place = { address, port, host, ticket: mirror.ticket };
    const carriage = await carrier.carry(path, place, options).catch((error: unknown) => {
      options.signal.throwIfAborted();
      throw unreachable(server, error);
    });
    this.#open.set(mirror, carriage);
    const ended = (cause: unknown) => this.#ended(mirror, carriage, cause);
    carriage.done.then(() => ended(undefined), ended);
    return path;
  }

  /** Waits a moment for the stream of a mirror that has failed to say why. */
  async explain(mirror: Mirror): Promise<void> {
    const done = this.#open.get(mirror)?.done;
    const said = done?.then(
      () => undefined,
      (cause: unknown) => mirror.broke(cause),
    );
    await Promise.race([said, delay(SAYS_MS, undefined, { ref: false })]);
  }

  /** Breaks what is still open. Only for mirrors that have settled, or whose jobs are gone. */
  reset(): void {
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const carriage of open) carriage.reset(new Error('The mirror is over.'));
  }

  #ended(mirror: Mirror, carriage: Carriage, cause: unknown): void {
    if (this.#open.get(mirror) !== carriage) return;
    if (cause !== undefined) mirror.broke(cause);
    // A QEMU that hangs up says why in its own words, or has died.
    if (carriage.endedFirst === 'stream') mirror.stop('the stream to the destination ended');
  }
}

function unreachable({ address, port }: DiskServerAddress, cause: unknown): DomainError {
  const why = cause instanceof ReasonedError ? `: ${cause.message}` : '.';
  return new DomainError(
    'MIRROR_FAILED',
    `No disk can be streamed to the data door on ${address}:${port}${why}`,
    {
      cause,
      facts: { address, port },
      ...(cause instanceof ReasonedError && cause.hint ? { hint: cause.hint } : {}),
    },
  );
}

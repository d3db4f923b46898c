import type { LaunchedProcess } from '../process/launcher.js';
import { deferred } from '../util/deferred.js';
import { DomainError } from './errors.js';
import type { ReportProblem } from './faults.js';
import type { IncomingState } from './incoming-state.js';
import type { TransportOptions } from './incoming-types.js';
import type { DiskServerAddress, RamServerAddress } from './launch-spec.js';
import type { IncomingDomain, LoadedGuest, WaitOptions } from './types.js';

/** What is left of an incoming domain whose QEMU cannot be asked. */
export interface MuteIncomingParts {
  readonly name: string;
  /** The QEMU that lives and does not answer; undefined where it has gone. */
  readonly silent: LaunchedProcess | undefined;
  /** Tries once more to speak to it; undefined where it has gone meanwhile. */
  again(options: WaitOptions): Promise<IncomingDomain | undefined>;
  discard(): Promise<void>;
  arrive(qemu: { readonly alive: boolean }): Promise<void>;
  /** True where it has come to stay already. */
  readonly arrived: boolean;
  readonly report: ReportProblem;
}

/**
 * An incoming domain of an earlier life of the agent whose QEMU has gone or is silent. Once a
 * silent one answers `observe`, everything goes on as if it had never been silent.
 */
export class MuteIncomingDomain implements IncomingDomain {
  readonly died: Promise<DomainError>;
  readonly #parts: MuteIncomingParts;
  #found: IncomingDomain | undefined;
  #lives: boolean;
  #arrived: boolean;
  #disposed = false;

  constructor(parts: MuteIncomingParts) {
    this.#parts = parts;
    this.#lives = parts.silent !== undefined;
    this.#arrived = parts.arrived;
    const died = deferred<DomainError>();
    this.died = died.promise;
    const gone = parts.silent?.exited ?? Promise.resolve();
    void gone.then(() => {
      this.#lives = false;
      died.resolve(this.#error());
    });
  }

  get alive(): boolean {
    return this.#found?.alive ?? this.#lives;
  }

  get mayHaveRun(): boolean {
    return this.#found?.mayHaveRun ?? true;
  }

  async exportDisks(options: TransportOptions): Promise<DiskServerAddress> {
    return await this.#qemu.exportDisks(options);
  }

  async acceptRam(options: TransportOptions): Promise<RamServerAddress> {
    return await this.#qemu.acceptRam(options);
  }

  async loaded(options: WaitOptions): Promise<LoadedGuest> {
    return await this.#qemu.loaded(options);
  }

  async resume(guest: { readonly paused: boolean }, options: WaitOptions): Promise<void> {
    await this.#qemu.resume(guest, options);
  }

  /** @throws DomainError `QEMU_ERROR` while it does not answer */
  async observe(options: WaitOptions): Promise<IncomingState> {
    if (!this.alive) return 'gone';
    this.#found ??= await this.#hail(options);
    return this.#found ? await this.#found.observe(options) : 'gone';
  }

  async kill(): Promise<void> {
    if (this.#found) return await this.#found.kill();
    const { silent } = this.#parts;
    silent?.kill('SIGKILL');
    silent?.hurry();
    await silent?.exited;
  }

  async arrive(): Promise<void> {
    this.#arrived = true;
    await (this.#found ?? this.#parts).arrive({ alive: this.#lives });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#found) return await this.#found[Symbol.asyncDispose]();
    if (this.#disposed || this.#arrived) return;
    this.#disposed = true;
    const { report, discard } = this.#parts;
    await discard().catch((error) => report('discard the incoming domain', error));
  }

  async #hail(options: WaitOptions): Promise<IncomingDomain | undefined> {
    try {
      return await this.#parts.again(options);
    } catch (cause) {
      options.signal.throwIfAborted();
      throw this.#error(cause);
    }
  }

  get #qemu(): IncomingDomain {
    if (this.#found) return this.#found;
    throw this.#error();
  }

  #error(cause?: unknown): DomainError {
    const { name, silent } = this.#parts;
    const side = { side: 'destination' } as const;
    return this.#lives
      ? new DomainError(
          'QEMU_ERROR',
          `The QEMU that waits for ${name}, process ${silent?.record.pid}, does not answer.`,
          { ...side, cause },
        )
      : new DomainError('DEST_QEMU_DIED', `The QEMU that waited for ${name} has gone.`, side);
  }
}

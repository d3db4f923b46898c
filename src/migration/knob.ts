import type { Log } from '../util/log.js';
import { isWorth } from './traffic-shares.js';

/**
 * One rate that a QEMU is told: only where the change is worth a command, one command at a time,
 * and only the newest.
 */
export class Knob {
  readonly #tell: (bytesPerSecond: number) => Promise<void>;
  readonly #log: Log;
  /** Undefined until it is known: an earlier life of the agent may have told it something else. */
  #told: number | undefined;
  #wanted = Infinity;
  #busy = false;
  #held = false;

  constructor(tell: (bytesPerSecond: number) => Promise<void>, log: Log) {
    this.#tell = tell;
    this.#log = log;
  }

  /** Bytes per second from now on; Infinity is unlimited. */
  want(rate: number): void {
    this.#wanted = rate;
    if (!this.#busy) void this.#goOn();
  }

  /** Tells nothing any more; a command under way is not waited for. */
  hold(): void {
    this.#held = true;
  }

  async #goOn(): Promise<void> {
    this.#busy = true;
    try {
      while (!this.#held && isWorth(this.#told, this.#wanted)) {
        const rate = this.#wanted;
        await this.#tell(rate === Infinity ? 0 : Math.max(1, Math.floor(rate)));
        this.#told = rate;
      }
    } catch (error) {
      // What is wrong with the QEMU the flow finds out by itself; it is told again with the next.
      this.#told = undefined;
      this.#log.debug({ err: error }, 'a rate could not be set');
    } finally {
      this.#busy = false;
    }
  }
}

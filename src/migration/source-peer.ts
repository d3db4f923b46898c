import type { WaitOptions } from '../domain/types.js';
import type { Log } from '../util/log.js';
import { asReasoned, MigrationError } from './errors.js';
import type { PeerCalls, PeerHeader } from './peer.js';

const ASK_EVERY_MS = 5_000;
const SILENCE_LIMIT_MS = 60_000;
const LOADED_SILENCE_LIMIT_MS = 600_000;

/** The source as the destination sees it. It is only ever asked what its journal says. */
export class SourcePeer {
  readonly #header: PeerHeader;
  readonly #calls: PeerCalls;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;

  constructor(header: PeerHeader, calls: PeerCalls, log: Log) {
    this.#header = header;
    this.#calls = calls;
    this.#log = log;
  }

  /** Proves that the source can be reached from here before anything is made. */
  async prove(options: WaitOptions): Promise<void> {
    const { record } = await this.#calls.queryMigration(this.#header, options);
    if (record !== 'STARTED') {
      throw new MigrationError(
        'PEER_LOST',
        `${this.#header.sourceHost} asked for a migration that it does not know of (${record}).`,
        { side: 'source' },
      );
    }
  }

  /**
   * Asks the source from time to time whether the migration still goes on, and calls `gaveUp` when
   * it does not: a source that died must not leave a QEMU and images here for ever. A guest that is
   * loaded is kept longer, since its source may be about to commit.
   */
  follow(loaded: () => boolean, gaveUp: (reason: MigrationError) => void): void {
    let heardAt = performance.now();
    const ask = async () => {
      try {
        const signal = AbortSignal.timeout(ASK_EVERY_MS);
        const { record } = await this.#calls.queryMigration(this.#header, { signal });
        heardAt = performance.now();
        if (record === 'ABORTED' || record === 'NONE' || record === 'RECLAIMED') {
          gaveUp(this.#lost(`${this.#header.sourceHost} has given the migration up (${record}).`));
        }
      } catch (error) {
        this.#log.debug({ reason: asReasoned(error).reason }, 'the source did not answer');
        const limit = loaded() ? LOADED_SILENCE_LIMIT_MS : SILENCE_LIMIT_MS;
        if (performance.now() - heardAt > limit) {
          gaveUp(this.#lost(`${this.#header.sourceHost} has not answered for ${limit / 1000} s.`));
        }
      }
      if (this.#timer) this.#timer = setTimeout(ask, ASK_EVERY_MS).unref();
    };
    this.#timer = setTimeout(ask, ASK_EVERY_MS).unref();
  }

  /** Stops asking. */
  unfollow(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #lost(message: string): MigrationError {
    return new MigrationError('PEER_LOST', message, { side: 'source' });
  }
}

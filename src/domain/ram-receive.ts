import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Relay, startRelay } from '../channel/relay.js';
import type { ByteStream } from '../channel/types.js';
import { connectUnix } from '../channel/unix-socket.js';
import type { QmpClient } from '../qmp/client.js';
import { untilAborted } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import { setUpIncomingStream } from './stream-settings.js';
import type { RamReceive, WaitOptions } from './types.js';

/** The end of the RAM stream at an incoming QEMU: relay - unix socket - QEMU. */
export class QemuRamReceive implements RamReceive {
  readonly #path: string;
  #relay: Relay | undefined;
  #taken = false;

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * Runs `migrate-incoming`. `directory` is the domain's private folder; its socket's path fits
   * into 107 bytes.
   */
  static async start(
    qmp: QmpClient,
    directory: string,
    options: WaitOptions,
  ): Promise<QemuRamReceive> {
    const path = join(directory, 'ram-in.sock');
    await rm(path, { force: true });
    await setUpIncomingStream(qmp, options);
    await qmp.execute(
      'migrate-incoming',
      {
        channels: [{ 'channel-type': 'main', addr: { transport: 'socket', type: 'unix', path } }],
        // A QEMU that stays can still be asked what was wrong.
        'exit-on-error': false,
      },
      { limitMs: STEP_LIMIT_MS, ...options },
    );
    return new QemuRamReceive(path);
  }

  /**
   * True when the stream broke or ended before QEMU had what it needs: then QEMU is not to blame.
   * Until it has done with the stream, well or badly, QEMU says nothing on the way back.
   */
  get streamEnded(): boolean {
    if (!this.#relay) return true;
    return this.#relay.endedFirst === 'stream' && this.#relay.answeredBytes === 0;
  }

  async receive(stream: ByteStream, options: WaitOptions): Promise<void> {
    if (this.#taken) {
      throw new DomainError('RAM_FAILED', 'This QEMU has had its RAM stream already.', {
        side: 'destination',
      });
    }
    this.#taken = true;
    try {
      this.#relay = startRelay(await connectUnix(this.#path, options), stream);
      await rm(this.#path, { force: true });
      await untilAborted(this.#relay.done, options.signal);
    } catch (error) {
      const reason = error instanceof Error ? error : new Error(String(error));
      stream.reset(reason);
      this.#relay?.reset(reason);
      throw error;
    }
  }

  /** Breaks the stream, if there is one. */
  reset(reason: Error): void {
    this.#relay?.reset(reason);
  }
}

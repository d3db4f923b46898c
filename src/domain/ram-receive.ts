import { lstat, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Relay, startRelay } from '../channel/relay.js';
import type { ByteStream } from '../channel/types.js';
import { connectUnix } from '../channel/unix-socket.js';
import type { QmpClient } from '../qmp/client.js';
import { deferred } from '../util/deferred.js';
import { untilAborted } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import { setUpIncomingStream } from './stream-settings.js';
import type { RamReceive, WaitOptions } from './types.js';

/** The end of the RAM stream at an incoming QEMU: relay - unix socket - QEMU. */
export class QemuRamReceive implements RamReceive {
  readonly #path: string;
  #relay: Relay | undefined;
  readonly #over = deferred();
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
    const path = ramSocket(directory);
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
   * Finds what an earlier life of the agent prepared; undefined where it had not begun. Once the
   * bytes had begun to come there is no use in it: they came through that agent.
   */
  static async find(
    qmp: QmpClient,
    directory: string,
    options: WaitOptions,
  ): Promise<QemuRamReceive | undefined> {
    const limit = { limitMs: STEP_LIMIT_MS, ...options };
    const { status } = await qmp.execute('query-migrate', {}, limit);
    if (status === undefined || status === 'none') return undefined;
    const path = ramSocket(directory);
    const found = new QemuRamReceive(path);
    // The socket's path goes as soon as somebody has connected.
    const waits = status === 'setup' && (await lstat(path).catch(() => undefined)) !== undefined;
    found.#taken = !waits;
    if (!waits) found.#over.resolve();
    return found;
  }

  /** Resolves, never rejects, when a stream has come and both its directions have ended. */
  get over(): Promise<void> {
    return this.#over.promise;
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
      this.#over.resolve();
    } catch (error) {
      const reason = error instanceof Error ? error : new Error(String(error));
      stream.reset(reason);
      this.#relay?.reset(reason);
      this.#over.resolve();
      throw error;
    }
  }

  /** Breaks the stream, if there is one. */
  reset(reason: Error): void {
    this.#relay?.reset(reason);
  }
}

/** Where an incoming QEMU takes its RAM; the path fits into 107 bytes. */
function ramSocket(directory: string): string {
  return join(directory, 'ram-in.sock');
}

import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Relay, startRelay } from '../channel/relay.js';
import type { ByteStream } from '../channel/types.js';
import { OneConnection } from '../channel/unix-socket.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { DowntimeLadder } from './downtime-ladder.js';
import { DomainError } from './errors.js';
import { EventClock } from './event-clock.js';
import { QemuFaults, type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { activateImages } from './image-locks.js';
import { imageNode, mirrorJob, targetNode } from './names.js';
import { assertGoing, completeRam } from './ram-completion.js';
import { isLive, MIGRATION_EVENTS, resumeSource } from './resume-source.js';
import { readGuard } from './source-guard.js';
import { setUpStream } from './stream-settings.js';
import type {
  MigrationLimits,
  RamChannel,
  RamPause,
  RamProgress,
  RamSend,
  SourceGuard,
  WaitOptions,
} from './types.js';
import { breakingStall, yankStalled } from './yank.js';

/** What sending the RAM needs. */
export interface RamSendParts {
  readonly process: QemuProcess;
  /** Private folder of the domain, for the socket; the socket's path must fit into 107 bytes. */
  readonly directory: string;
  readonly channel: RamChannel;
  readonly limits: MigrationLimits;
  /**
   * Resolves when every mirror has settled; rejects when one fails: then there is no use in sending
   * RAM.
   */
  readonly mirrored: Promise<unknown>;
  /** The disks that may be mirrored. */
  readonly diskIds: readonly string[];
  /** Hears of undo steps that did not work. */
  readonly report: ReportProblem;
}

/** The images are locked so long after the end of the RAM where no guard was asked for before. */
const LOCK_AFTER_MS = 100;

/** When the stream breaks, QEMU gets this long to say so itself, because it knows more. */
const QEMU_SAYS_MS = 1_000;

const STEP = { limitMs: STEP_LIMIT_MS };

/** The RAM stream of one QEMU: QEMU - unix socket - relay - channel. */
export class QemuRamSend implements RamSend {
  readonly #parts: RamSendParts;
  readonly #qmp: QmpClient;
  readonly #faults: QemuFaults;
  readonly #events: EventListener<(typeof MIGRATION_EVENTS)[number]>;
  readonly #clock = new EventClock();
  readonly #ladder: DowntimeLadder;
  readonly #relayErrorNow = () => this.#relayError;
  /** Rejects when a mirror has failed, or when the relay has broken and QEMU did not notice. */
  readonly #broken = deferred<never>();
  #stream: ByteStream | undefined;
  #relay: Relay | undefined;
  #relayError: unknown;
  #guestPaused = false;
  #settled = false;
  #lock: NodeJS.Timeout | undefined;
  #begun = false;
  #released = false;

  private constructor(parts: RamSendParts) {
    this.#parts = parts;
    this.#qmp = parts.process.qmp;
    this.#faults = new QemuFaults(parts.process, 'source');
    this.#events = this.#qmp.listen(...MIGRATION_EVENTS);
    this.#ladder = new DowntimeLadder(this.#qmp, parts.limits.downtimeLimitMs, parts.report);
    this.#broken.promise.catch(() => undefined);
    parts.mirrored.then(
      () => {
        this.#settled = true;
      },
      (error: unknown) => this.#broken.reject(error),
    );
  }

  /** Opens the channel and lets QEMU begin. When that fails, the guest runs here as before. */
  static async start(parts: RamSendParts, options: WaitOptions): Promise<QemuRamSend> {
    const send = new QemuRamSend(parts);
    try {
      await send.#start(options);
      return send;
    } catch (error) {
      const reason = await send.#explain(error, 'starting to send RAM');
      await send[Symbol.asyncDispose]();
      throw reason;
    }
  }

  async preSwitchover(options: WaitOptions): Promise<RamPause> {
    try {
      return await untilAborted(
        Promise.race([this.#pause(options), this.#broken.promise]),
        options.signal,
      );
    } catch (error) {
      throw await this.#explain(error, 'sending RAM');
    }
  }

  async finish(options: WaitOptions): Promise<void> {
    // The last pass may take as long as the downtime allows; a stall is what goes far beyond it.
    const limitMs = STEP_LIMIT_MS + 2 * this.#parts.limits.downtimeLimitMs;
    const stalled = () =>
      new DomainError('STALLED', `The last RAM was not sent within ${limitMs} ms.`, {
        side: 'source',
        facts: { limit_ms: limitMs },
      });
    using limit = withTimeout(options.signal, limitMs, stalled);
    try {
      const completed = Promise.race([
        completeRam(this.#qmp, this.#events, limit, this.#relayErrorNow),
        this.#broken.promise,
      ]);
      await this.#breakingStall(untilAborted(completed, limit.signal));
    } catch (error) {
      throw await this.#explain(error, 'sending the last RAM');
    }
    this.#lock = setTimeout(() => this.#lockImages(), LOCK_AFTER_MS);
  }

  async guard(options: WaitOptions): Promise<SourceGuard> {
    const memory = {
      jobs: this.#parts.diskIds.map(mirrorJob),
      settled: this.#settled,
      resumed: () => this.#events.has(({ name }) => name === 'RESUME'),
    };
    try {
      const guard = await this.#breakingStall(readGuard(this.#qmp, memory, options));
      this.#lockImages();
      return guard;
    } catch (error) {
      throw await this.#explain(error, 'making sure that the guest cannot run here');
    }
  }

  release(): void {
    this.#released = true;
  }

  async progress(): Promise<RamProgress> {
    const info = await this.#qmp.execute('query-migrate', {}, STEP);
    const { ram } = info;
    return {
      totalBytes: ram?.total ?? 0,
      transferredBytes: ram?.transferred ?? 0,
      remainingBytes: ram?.remaining ?? 0,
      bytesPerSecond: Math.round(((ram?.mbps ?? 0) * 1e6) / 8),
      dirtyBytesPerSecond: (ram?.['dirty-pages-rate'] ?? 0) * (ram?.['page-size'] ?? 0),
      pass: ram?.['dirty-sync-count'] ?? 0,
      expectedDowntimeMs: info['expected-downtime'] ?? 0,
      downtimeMs: info.status === 'completed' ? info.downtime : undefined,
    };
  }

  /**
   * Unless released: ends the stream and lets the guest run here again, if it did. Never throws.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#begun && !this.#released) {
      this.#begun = false;
      const { process, diskIds, report } = this.#parts;
      const targets = diskIds.map(targetNode);
      await resumeSource(process, { guestPaused: this.#guestPaused, targets }, report);
    }
    clearTimeout(this.#lock);
    const over = new Error('The RAM stream is over.');
    this.#relay?.reset(over);
    this.#stream?.reset(over);
    this.#ladder[Symbol.dispose]();
    this.#events[Symbol.dispose]();
    this.#faults[Symbol.dispose]();
  }

  /**
   * QEMU lets go of its images when it has completed. They are this host's until the handover is
   * over, so nobody else shall open them to write. Nobody waits for that, and the guard's questions
   * do not stand in line behind it.
   */
  #lockImages(): void {
    clearTimeout(this.#lock);
    activateImages(this.#qmp, this.#parts.diskIds.map(imageNode)).catch((error) => {
      if (!(error instanceof QmpClosedError)) this.#parts.report('lock the images', error);
    });
  }

  async #breakingStall<T>(step: Promise<T>): Promise<T> {
    const { diskIds, report } = this.#parts;
    const cut = async () => {
      this.#relay?.reset(new Error('QEMU stalled.'));
      await yankStalled(this.#qmp, { nodes: diskIds.map(targetNode), migration: true });
    };
    return await breakingStall(step, cut, report);
  }

  async #start(options: WaitOptions): Promise<void> {
    const { directory, channel, limits } = this.#parts;
    const { status } = await this.#qmp.execute('query-status', {}, options);
    this.#guestPaused = !isLive(status);
    const begin = { ...limits, downtimeLimitMs: this.#ladder.firstMs };
    await setUpStream(this.#qmp, begin, options);
    this.#stream = await channel.open(options);
    await using door = await OneConnection.listen(join(directory, 'ram.sock'));
    this.#begun = true;
    await this.#qmp.execute(
      'migrate',
      {
        channels: [
          {
            'channel-type': 'main',
            addr: { transport: 'socket', type: 'unix', path: door.path },
          },
        ],
      },
      options,
    );
    const noConnection = () =>
      new DomainError('STALLED', `QEMU did not begin to send RAM within ${STEP_LIMIT_MS} ms.`, {
        side: 'source',
        facts: { limit_ms: STEP_LIMIT_MS },
      });
    using limit = withTimeout(options.signal, STEP_LIMIT_MS, noConnection);
    this.#relay = startRelay(await door.accepted({ signal: limit.signal }), this.#stream);
    this.#relay.done.catch(async (error: unknown) => {
      this.#relayError = error;
      await delay(QEMU_SAYS_MS, undefined, { ref: false });
      this.#broken.reject(error);
    });
  }

  /** Follows the guest's state until QEMU waits before the last pass. */
  async #pause(options: WaitOptions): Promise<RamPause> {
    let stoppedAtUs: number | undefined;
    for (;;) {
      const event = await this.#events.next(options);
      if (event.name === 'SHUTDOWN') {
        // Without a guest's will QEMU is being ended, and the connection with it.
        if (event.data.guest) throw guestStopped();
      } else if (event.name === 'RESUME') {
        this.#guestPaused = false;
        stoppedAtUs = undefined;
      } else if (event.name === 'STOP') {
        // QEMU says STOP for a user's pause, too. Its state tells the two apart: only its own is
        // "finish-migrate".
        stoppedAtUs = this.#clock.toClockUs(event.timestampUs);
        const { status } = await this.#qmp.execute('query-status', {}, { ...STEP, ...options });
        this.#guestPaused = status !== 'finish-migrate' && !isLive(status);
      } else if (event.data.status === 'pre-switchover') {
        return {
          // A guest that its user had paused stopped long ago: what counts here begins with the
          // switchover.
          stoppedAtUs:
            stoppedAtUs === undefined || this.#guestPaused
              ? this.#clock.toClockUs(event.timestampUs)
              : stoppedAtUs,
          guestPaused: this.#guestPaused,
        };
      } else await assertGoing(this.#qmp, event, this.#relayErrorNow);
    }
  }

  /**
   * When the stream broke first, its own reason says more than QEMU's, which only saw the end of a
   * socket.
   */
  async #explain(error: unknown, doing: string): Promise<Error> {
    const byStream = error === this.#relayError || (error as DomainError).reason === 'RAM_FAILED';
    if (this.#relayError === undefined || !byStream)
      return await this.#faults.explain(error, doing);
    if (this.#relayError instanceof ReasonedError) return this.#relayError;
    if (error instanceof DomainError) return error;
    return new DomainError('RAM_FAILED', `The RAM stream broke while ${doing}.`, {
      cause: this.#relayError,
    });
  }
}

function guestStopped(): DomainError {
  return new DomainError('GUEST_STOPPED', 'The guest powered off while RAM was sent.', {
    side: 'source',
  });
}

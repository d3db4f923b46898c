import type { QmpClient } from '../qmp/client.js';
import type { EventListener } from '../qmp/event-listener.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { DomainError } from './errors.js';
import { EventClock } from './event-clock.js';
import { STEP_LIMIT_MS } from './faults.js';
import { assertGoing } from './ram-completion.js';
import { isLive, type MIGRATION_EVENTS } from './resume-source.js';
import type { RamPause, WaitOptions } from './types.js';

const STEP = { limitMs: STEP_LIMIT_MS };

/** Follows a guest whose RAM is being sent until QEMU has paused it before the last pass. */
export class PauseWatch {
  readonly #qmp: QmpClient;
  readonly #events: EventListener<(typeof MIGRATION_EVENTS)[number]>;
  readonly #clock = new EventClock();
  /** Tells why the stream broke, if it did. */
  readonly #cause: () => unknown;
  readonly #began: Deferred<void> = deferred();
  #guestPaused = false;

  constructor(
    qmp: QmpClient,
    events: EventListener<(typeof MIGRATION_EVENTS)[number]>,
    cause: () => unknown,
  ) {
    this.#qmp = qmp;
    this.#events = events;
    this.#cause = cause;
  }

  /** True while its user has the guest paused. */
  get guestPaused(): boolean {
    return this.#guestPaused;
  }

  /** Resolves when QEMU has all connections and begins to send. */
  get began(): Promise<void> {
    return this.#began.promise;
  }

  /** Takes the guest's state as QEMU says it now. Events that came before do not count. */
  async look(options: WaitOptions): Promise<void> {
    const { status } = await this.#qmp.execute('query-status', {}, { ...STEP, ...options });
    this.#guestPaused = !isLive(status);
  }

  /** Resolves when QEMU waits before the last pass. */
  async follow(options: WaitOptions): Promise<RamPause> {
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
      } else {
        if (event.data.status === 'active') this.#began.resolve();
        await assertGoing(this.#qmp, event, this.#cause);
      }
    }
  }
}

function guestStopped(): DomainError {
  return new DomainError('GUEST_STOPPED', 'The guest powered off while RAM was sent.', {
    side: 'source',
  });
}

import type { Transport } from '../channel/types.js';
import type { LaunchSpec } from '../domain/launch-spec.js';
import type {
  DataProbe,
  MigrationLimits,
  Mirrors,
  RamPause,
  RamSend,
  WaitOptions,
} from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import { linkSignals } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import type { Reason } from '../util/reasons.js';
import { MOMENTS, type Moment, splitDowntime } from './downtime.js';
import { asReasoned } from './errors.js';
import type { Summary } from './migration.js';
import type { Vote } from './peer.js';
import type { Phase } from './phase.js';
import { ProgressSampler } from './progress.js';
import type { Tracker } from './tracker.js';
import type { TrafficMember } from './traffic-member.js';
import { type ChosenTransport, chooseTransport, type TransportWish } from './transport.js';

/** How often RAM is sent before the migration is given up. */
const RAM_TRIES = 3;

/** Why RAM broke off that may as well get through the next time. */
const BREAKS: readonly Reason[] = ['RAM_FAILED', 'PEER_LOST', 'PEER_UNREACHABLE'];

/** RAM of which only the last is still to be sent, and the pause of the guest. */
export interface PausedRam {
  readonly sent: RamSend;
  readonly pause: RamPause;
}

/** What the context is made with. */
export interface ContextTools {
  readonly clock: Clock;
  readonly log: Log;
  /** Writes to the journal that a phase begins; resolves when that is as durable as it must be. */
  record(phase: Phase, details: object): Promise<void>;
  /** The migration's part in the traffic of this host. */
  readonly traffic: TrafficMember;
  /** What was asked for, and what an earlier life of the agent chose. */
  readonly transport: { readonly wish: TransportWish; readonly known: ChosenTransport | undefined };
  /** What safety took while the guest was stopped, besides giving it up, in microseconds. */
  safetyUs(): number;
}

/** What the source's flow needs besides the domain and the peer: cancellation, phases, figures. */
export class SourceContext {
  /** Fires when the migration is cancelled; never after the handover has begun. */
  readonly signal: AbortSignal;
  /** True where no mirror of this migration was ever begun. */
  readonly fresh: boolean;
  readonly #tracker: Tracker;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #tools: ContextTools;
  readonly #sampler: ProgressSampler;
  readonly #startedMs: number;
  readonly #moments: Partial<Record<Moment, number>> = {};
  #limits: MigrationLimits;
  #chosen: ChosenTransport | undefined;

  constructor(tracker: Tracker, limits: MigrationLimits, signal: AbortSignal, tools: ContextTools) {
    this.#tracker = tracker;
    this.#limits = limits;
    this.fresh = tools.transport.known === undefined;
    this.signal = signal;
    this.#clock = tools.clock;
    this.#log = tools.log;
    this.#tools = tools;
    this.#startedMs = tools.clock.nowMs();
    this.#sampler = new ProgressSampler(tracker, tools.clock);
  }

  get limits(): MigrationLimits {
    return this.#limits;
  }

  /**
   * Chooses how disks and RAM travel, once: a later life of the agent keeps to it. `openProbe`
   * opens a port of the destination that may be tried.
   */
  async chooseTransport(
    openProbe: (options: WaitOptions) => Promise<DataProbe>,
  ): Promise<Transport> {
    const { wish, known } = this.#tools.transport;
    const chosen = known ?? (await chooseTransport(wish, openProbe, { signal: this.signal }));
    const { transport, reason, roundTripMs } = chosen;
    this.#tracker.update({ transport, transportReason: reason });
    this.#log.info({ ...chosen }, 'chose the transport');
    if (roundTripMs !== undefined) this.#limits = { ...this.#limits, roundTripMs };
    this.#chosen = chosen;
    return transport;
  }

  /**
   * Begins a phase. `details` go into the journal.
   *
   * @throws the reason of the cancellation, if there was one, or what kept the journal from it
   */
  async enter(phase: Phase, details: object = {}): Promise<void> {
    this.signal.throwIfAborted();
    await this.#tools.traffic.before(phase, { signal: this.signal });
    // Nobody may ask QEMU anything besides the flow itself while the guest is paused.
    if (phase === 'switchover') this.#sampler.stop();
    const runningOn = { switchover: 'NOWHERE', cleanup: 'DESTINATION' } as const;
    this.#tracker.enter(phase, {
      cancellable: phase !== 'handover' && phase !== 'cleanup',
      ...(phase === 'switchover' || phase === 'cleanup' ? { runningOn: runningOn[phase] } : {}),
    });
    this.#log.info({ phase }, 'entered a phase');
    await this.#tools.record(phase, phase === 'mirror' ? { ...this.#chosen } : details);
  }

  /** Follows the mirrors' progress until the switchover. */
  observeMirrors(mirrors: Mirrors): void {
    this.#sampler.mirrors = mirrors;
    this.#sampler.start();
    this.#tools.traffic.follow(mirrors);
  }

  /**
   * Sends RAM, and follows its progress, until QEMU has paused the guest. It may not before
   * `activate` has resolved, which is run once all RAM has been sent once: the guest's writes take
   * longer from then on, nor before `present` has: whoever takes the guest must be there. Where the
   * stream breaks before, that is tried again.
   *
   * @throws what ended the last try, or the first one if the destination would not have another
   */
  async untilPaused(
    send: () => Promise<RamSend>,
    activate: () => Promise<void>,
    present: () => Promise<void>,
  ): Promise<PausedRam> {
    let first: unknown;
    for (let tries = 1; ; tries++) {
      let sent: RamSend | undefined;
      try {
        sent = await send();
        this.#sampler.ram = sent;
        this.#tools.traffic.sends(sent);
        await sent.sentOnce({ signal: this.signal });
        await this.#pauseTurn(sent);
        await activate();
        await present();
        await sent.allowPause();
        return { sent, pause: await sent.preSwitchover({ signal: this.signal }) };
      } catch (error) {
        await sent?.[Symbol.asyncDispose]();
        if (!sent && first !== undefined) throw first;
        first ??= error;
        const broken = BREAKS.includes(asReasoned(error).reason);
        if (!sent || !broken || tries === RAM_TRIES || this.signal.aborted) throw error;
        this.#log.warn({ err: error, tries }, 'the RAM stream broke; trying again');
      }
    }
  }

  /** Waits for the turn to pause the guest, unless QEMU has paused it or the stream has broken. */
  async #pauseTurn(sent: RamSend): Promise<void> {
    const over = new AbortController();
    using waiting = linkSignals(this.signal, over.signal);
    const turn = this.#tools.traffic.pauseTurn({ signal: waiting.signal });
    const paused = sent.preSwitchover({ signal: this.signal });
    for (const promise of [turn, paused]) promise.catch(() => undefined);
    try {
      await Promise.race([turn, paused]);
    } finally {
      over.abort(new Error('The turn is not needed any more.'));
    }
  }

  /** Notes when something happened, in microseconds of the clock; the default is now. */
  note(moment: Moment, atUs = this.#clock.nowUs()): void {
    this.#moments[moment] = atUs;
  }

  /**
   * Publishes the figures of the whole migration. Called with the guest running on the destination.
   */
  async summarize(launchSpec: LaunchSpec, vote: Vote): Promise<void> {
    // The guest has moved: a figure that cannot be read must not keep the source from letting go.
    await this.#sampler.sample().catch((error) => {
      this.#log.warn({ err: error }, 'the last figures could not be read');
    });
    const { disks, ram } = this.#tracker.now;
    const transferred = new Map(disks.map((disk) => [disk.diskId, disk.transferredBytes]));
    const mirrored = launchSpec.disks.filter((disk) => disk.mirrored);
    const summary: Summary = {
      totalTimeMs: Math.round(this.#resumedMs() - this.#startedMs),
      downtime: splitDowntime(this.#allMoments(), this.#tools.safetyUs()),
      qemuDowntimeMs: ram?.downtimeMs ?? 0,
      transferredBytes:
        (ram?.transferredBytes ?? 0) + disks.reduce((sum, disk) => sum + disk.transferredBytes, 0),
      ramPasses: ram?.pass ?? 0,
      disks: mirrored.map((disk) => ({
        diskId: disk.diskId,
        sizeBytes: disk.sizeBytes,
        transferredBytes: transferred.get(disk.diskId) ?? 0,
        sourceAllocatedBytes: disk.allocatedBytes,
        destinationAllocatedBytes: vote.allocatedBytes[disk.diskId] ?? 0,
      })),
    };
    this.#tracker.update({ summary });
  }

  /** Ends what the context does in the background. */
  close(): void {
    this.#sampler.stop();
    this.#tools.traffic.leave();
  }

  #resumedMs(): number {
    return (this.#moments.resumed ?? this.#clock.nowUs()) / 1000;
  }

  #allMoments(): Record<Moment, number> {
    let latest = this.#moments.stopped ?? 0;
    const entries = MOMENTS.map((moment) => {
      latest = this.#moments[moment] ?? latest;
      return [moment, latest] as const;
    });
    return Object.fromEntries(entries) as Record<Moment, number>;
  }
}

import { SerialLog, type SerialSegment } from '../../test/support/serial-log.js';
import type { HostName } from './network.js';

const WAIT = { limitMs: 120_000 };
const LONGEST_LISTS = 10;

/** A heartbeat as it was heard. */
export interface Beat {
  /** In milliseconds of `performance.now()`, as all times here. */
  readonly atMs: number;
  readonly count: number;
}

/** A write that the guest was told is durable. */
export interface Ack {
  readonly atMs: number;
  readonly disk: number;
  readonly seq: number;
  /** How long the disk took for it, by the guest's clock. */
  readonly latencyUs: number;
}

/** What was heard of one guest around one move. */
export interface Hearing {
  /** Between the last heartbeat on the source and the first on the destination. */
  readonly switchMs: number;
  /** The longest silence between any two heartbeats since the move began. */
  readonly longestMs: number;
  /** When the first heartbeat came from the destination. */
  readonly arrivedMs: number;
}

/**
 * Listens to one guest on both hosts, and judges what it says: each heartbeat and each write must
 * come once and in order, wherever the guest runs.
 */
export class GuestRecord implements Disposable {
  readonly #logs = new Map<HostName, SerialLog>();
  /** What was heard and parsed so far, of ended segments and of the one that grows. */
  readonly beats: Beat[] = [];
  readonly acks: Ack[] = [];
  /** When the RAM that the guest works on had been rewritten once more. */
  readonly ramRoundsMs: number[] = [];
  readonly #faults: string[] = [];
  readonly #newest = new Map<number, number>();
  readonly #blocksAtOnce: number;
  #host: HostName;
  #rest = '';
  /** Lines of the growing segment that have been parsed. */
  #parsed = 0;

  constructor(host: HostName, blocksAtOnce: number) {
    this.#host = host;
    this.#blocksAtOnce = blocksAtOnce;
  }

  /** Follows the guest's console on a host from now on; the folder of the file must be there. */
  follow(host: HostName, path: string): void {
    if (!this.#logs.has(host)) this.#logs.set(host, SerialLog.file(path, host));
  }

  /** Resolves when the guest's program has started everything. */
  async ready(): Promise<void> {
    await this.#log(this.#host).waitForReady(WAIT);
  }

  /** Resolves when some more writes have been acknowledged where the guest is. */
  async works(writes: number): Promise<void> {
    await this.#log(this.#host).waitForWrites(writes, WAIT);
  }

  /** Resolves when it has rewritten all of the RAM that it works on, at least once from now on. */
  async ramWritten(): Promise<void> {
    const log = this.#log(this.#host);
    let rounds = 0;
    const isSecond = (line: string) => (line.startsWith('R ') && ++rounds === 1) || undefined;
    await log.waitFor('a round of RAM', isSecond, WAIT);
  }

  /** Waits until the guest has been heard on the host it was moved to since `beganMs`. */
  async moved(to: HostName, beganMs: number): Promise<Hearing> {
    const log = this.#log(to);
    const beforeMs = () => log.lines.at(-1)?.atMs ?? 0;
    await log.until('heartbeat after the move', () => beforeMs() > beganMs || undefined, WAIT);
    await log.until('ten lines', () => this.#growing(to).lines.length > 10 || undefined, WAIT);
    this.parse();
    const ended = this.#logs.get(this.#host)?.cut();
    if (ended) this.#parseFrom(ended);
    this.#rest += ended?.rest ?? '';
    const lastMs = this.beats.at(-1)?.atMs ?? Number.NaN;
    this.#host = to;
    this.#parsed = 0;
    this.parse();
    const since = this.beats.filter(({ atMs }) => atMs >= beganMs - 100);
    const first = since.find(({ atMs }) => atMs > lastMs);
    const gaps = since.map(({ atMs }, index) => atMs - (since[index - 1]?.atMs ?? atMs));
    return {
      switchMs: (first?.atMs ?? Number.NaN) - lastMs,
      longestMs: Math.max(...gaps),
      arrivedMs: first?.atMs ?? Number.NaN,
    };
  }

  /** Takes in all that has been heard by now. */
  parse(): void {
    const segment = this.#growing(this.#host);
    this.#parseFrom(segment);
  }

  /** Everything that was wrong so far, in words. */
  get faults(): readonly string[] {
    return this.#faults.slice(0, LONGEST_LISTS);
  }

  /** The newest number acknowledged on each disk. */
  get newest(): ReadonlyMap<number, number> {
    return this.#newest;
  }

  [Symbol.dispose](): void {
    for (const log of this.#logs.values()) log[Symbol.dispose]();
  }

  #growing(host: HostName): SerialSegment {
    return this.#log(host).segments.at(-1) ?? { name: host, lines: [], rest: '' };
  }

  #log(host: HostName): SerialLog {
    const log = this.#logs.get(host);
    if (!log) throw new Error(`Nobody listens to the guest on ${host}.`);
    return log;
  }

  #parseFrom(segment: SerialSegment): void {
    for (; this.#parsed < segment.lines.length; this.#parsed++) {
      const line = segment.lines[this.#parsed];
      if (!line) continue;
      this.#take(this.#rest + line.text, line.atMs);
      this.#rest = '';
    }
  }

  #take(text: string, atMs: number): void {
    const beat = /^H (\d+) \d+$/.exec(text);
    const ack = /^A ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)$/.exec(text);
    if (beat) {
      this.#takeBeat({ atMs, count: Number(beat[1]) });
    } else if (ack) {
      const [disk = 0, seq = 0, latencyUs = 0] = ack
        .slice(1)
        .map((digits) => Number.parseInt(digits, 16));
      this.#takeAck({ atMs, disk, seq, latencyUs });
    } else if (/^R [0-9a-f]+$/.test(text)) {
      this.ramRoundsMs.push(atMs);
    } else if (!/^(D .*|READY|\/init: .*|)$/.test(text)) {
      this.#faults.push(`the guest says: ${text}`);
    }
  }

  #takeBeat(beat: Beat): void {
    const last = this.beats.at(-1)?.count ?? beat.count - 1;
    if (beat.count !== last + 1) {
      this.#faults.push(`heartbeat ${beat.count} came after heartbeat ${last}`);
    }
    this.beats.push(beat);
  }

  #takeAck(ack: Ack): void {
    const last = this.#newest.get(ack.disk) ?? ack.seq - this.#blocksAtOnce;
    if (ack.seq !== last + this.#blocksAtOnce) {
      this.#faults.push(`write ${ack.seq} of disk ${ack.disk} came after write ${last}`);
    }
    this.#newest.set(ack.disk, ack.seq);
    this.acks.push(ack);
  }
}

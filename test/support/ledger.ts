import type { DiskContent } from './blocks.js';
import type { SerialSegment } from './serial-log.js';

/** A number that came a second time: the guest ran twice, or went back in time. */
export interface Repeat {
  readonly what: 'write' | 'heartbeat';
  /** Disk number; 0 for heartbeats. */
  readonly disk: number;
  readonly seq: number;
  /** The segment that first had the number (or the newest one), and the one that had it again. */
  readonly segments: readonly [first: string, again: string];
}

/** Numbers that never came: the guest's RAM went ahead without the line it had printed. */
export interface Gap {
  readonly what: 'write' | 'heartbeat';
  readonly disk: number;
  readonly after: number;
  readonly next: number;
}

/** The step of the guest from one segment to the next, around its heartbeats there. */
export interface Step {
  readonly between: readonly [before: string, after: string];
  /**
   * Milliseconds on the host from the last heartbeat before to the first after, as they arrived.
   * The heartbeat's own interval is part of it.
   */
  readonly hostGapMs: number;
  /**
   * The same by the guest's own clock, which stands still while it is paused. Absent without
   * heartbeats.
   */
  readonly guestGapMs: number | undefined;
}

/** An acknowledged block that is not on the disk. */
export interface LostWrite {
  readonly disk: number;
  readonly slot: number;
  /** The newest number acknowledged for this slot. */
  readonly acknowledged: number;
  /** What the slot holds: an older number, or nothing that can be read. */
  readonly found: number | undefined;
}

/** A disk as the guest described it when it started. */
export interface GuestDisk {
  readonly name: string;
  readonly slots: number;
}

interface DiskRecord {
  readonly writes: Map<number, string>;
  newest: number | undefined;
}

/**
 * Judges what a guest printed: was every number there, once, in order?
 *
 * Give it the segments in the order in which the guest is believed to have run in them: source,
 * destination, and so on. A line that began in one and ended in the next is put together.
 */
export class Ledger {
  /** Writes acknowledged, over all disks. */
  ackedWrites = 0;
  heartbeats = 0;
  readonly repeats: Repeat[] = [];
  readonly gaps: Gap[] = [];
  readonly steps: Step[] = [];
  /** Lines in which the guest or its kernel says that something is wrong. */
  readonly guestErrors: string[] = [];
  /** Lines that nobody should print; a mixed-up line shows here. */
  readonly unexpectedLines: string[] = [];
  /** Disks by number, as far as the guest described them (the boot-sector guest does not). */
  readonly disks = new Map<number, GuestDisk>();
  /**
   * The longest time on the host between two heartbeats (or, without heartbeats, writes), in
   * milliseconds.
   */
  longestGapMs = 0;
  readonly #records = new Map<number, DiskRecord>();
  readonly #beats = new Map<number, string>();
  #lastBeat: number | undefined;

  constructor(segments: readonly SerialSegment[]) {
    const isPulse = pulseOf(segments);
    let rest = '';
    let lastPulse:
      | { segment: SerialSegment; atMs: number; guestUs: number | undefined }
      | undefined;
    for (const segment of segments) {
      for (const line of segment.lines) {
        const text = rest + line.text;
        rest = '';
        this.#take(text, segment.name);
        if (!isPulse(text)) continue;
        const pulse = { segment, atMs: line.atMs, guestUs: guestTimeUs(text) };
        if (lastPulse !== undefined) this.#measure(lastPulse, pulse);
        lastPulse = pulse;
      }
      rest += segment.rest;
    }
  }

  /** True if nothing at all is wrong with what was printed. */
  get clean(): boolean {
    const faults = [this.repeats, this.gaps, this.guestErrors, this.unexpectedLines];
    return faults.every((list) => list.length === 0);
  }

  /** What is wrong, in words, for a test's message; empty when clean. At most ten of each kind. */
  describeFaults(): string {
    const lines = [
      ...this.repeats
        .slice(0, 10)
        .map(
          (r) =>
            `${r.what} ${r.seq} of disk ${r.disk} again in ${r.segments[1]} (${r.segments[0]})`,
        ),
      ...this.gaps
        .slice(0, 10)
        .map((g) => `${g.what}s of disk ${g.disk} jump from ${g.after} to ${g.next}`),
      ...this.guestErrors.slice(0, 10).map((text) => `the guest says: ${text}`),
      ...this.unexpectedLines
        .slice(0, 10)
        .map((text) => `unexpected line: ${JSON.stringify(text)}`),
    ];
    return lines.join('\n');
  }

  /** The newest number acknowledged on a disk, or undefined when there was none. */
  newestWrite(disk: number): number | undefined {
    return this.#records.get(disk)?.newest;
  }

  /**
   * Compares a disk's content with what was acknowledged: in every slot the disk must hold the
   * newest acknowledged number or a later one. Writes that were not acknowledged yet may be there
   * or not.
   */
  lostWrites(content: DiskContent): LostWrite[] {
    const newest = new Map<number, number>();
    for (const seq of this.#records.get(content.disk)?.writes.keys() ?? []) {
      const slot = seq % content.slots;
      if (seq > (newest.get(slot) ?? -1)) newest.set(slot, seq);
    }
    const lost: LostWrite[] = [];
    for (const [slot, acknowledged] of newest) {
      const found = content.blocks.get(slot);
      if (found === undefined || found < acknowledged) {
        lost.push({ disk: content.disk, slot, acknowledged, found });
      }
    }
    return lost;
  }

  #take(text: string, segment: string): void {
    const write = /^A ([0-9a-f]+) ([0-9a-f]+)$/.exec(text);
    const beat = /^H (\d+) \d+$/.exec(text);
    const disk = /^D ([0-9a-f]+) (\S+) (ro|([0-9a-f]+) ([0-9a-f]+))$/.exec(text);
    if (write) this.#takeWrite(hex(write[1]), hex(write[2]), segment);
    else if (beat) this.#takeBeat(Number(beat[1]), segment);
    else if (disk) this.#takeStart(hex(disk[1]), disk[2] ?? '', hex(disk[4] ?? '0'));
    else if (/BAD|ERROR|BUG|Oops|panic/.test(text)) this.guestErrors.push(text);
    else if (!/^(READY|R [0-9a-f]+|)$/.test(text)) this.unexpectedLines.push(text);
  }

  /**
   * A guest that starts again counts its heartbeats anew, and goes on with the numbers found on the
   * disk.
   */
  #takeStart(disk: number, name: string, slots: number): void {
    this.disks.set(disk, { name, slots });
    const record = this.#records.get(disk);
    if (record) record.newest = undefined;
    this.#lastBeat = undefined;
    this.#beats.clear();
  }

  #takeWrite(disk: number, seq: number, segment: string): void {
    let record = this.#records.get(disk);
    if (record === undefined) {
      record = { writes: new Map(), newest: undefined };
      this.#records.set(disk, record);
    }
    const { newest } = record;
    const first = record.writes.get(seq);
    if (first !== undefined || (newest !== undefined && seq <= newest)) {
      const before = first ?? record.writes.get(newest ?? seq) ?? segment;
      this.repeats.push({ what: 'write', disk, seq, segments: [before, segment] });
      return;
    }
    if (newest !== undefined && seq > newest + 1) {
      this.gaps.push({ what: 'write', disk, after: newest, next: seq });
    }
    record.writes.set(seq, segment);
    record.newest = seq;
    this.ackedWrites++;
  }

  #takeBeat(count: number, segment: string): void {
    const last = this.#lastBeat;
    this.heartbeats++;
    if (last !== undefined && count <= last) {
      const first = this.#beats.get(count) ?? segment;
      this.repeats.push({ what: 'heartbeat', disk: 0, seq: count, segments: [first, segment] });
      return;
    }
    if (last !== undefined && count > last + 1) {
      this.gaps.push({ what: 'heartbeat', disk: 0, after: last, next: count });
    }
    this.#beats.set(count, segment);
    this.#lastBeat = count;
  }

  #measure(
    before: { segment: SerialSegment; atMs: number; guestUs: number | undefined },
    after: { segment: SerialSegment; atMs: number; guestUs: number | undefined },
  ): void {
    const hostGapMs = after.atMs - before.atMs;
    this.longestGapMs = Math.max(this.longestGapMs, hostGapMs);
    if (before.segment === after.segment) return;
    const guestGapMs =
      before.guestUs === undefined || after.guestUs === undefined
        ? undefined
        : (after.guestUs - before.guestUs) / 1000;
    const between = [before.segment.name, after.segment.name] as const;
    this.steps.push({ between, hostGapMs, guestGapMs });
  }
}

function hex(digits: string | undefined): number {
  return Number.parseInt(digits ?? '', 16);
}

function guestTimeUs(text: string): number | undefined {
  const beat = /^H \d+ (\d+)$/.exec(text);
  return beat ? Number(beat[1]) : undefined;
}

/**
 * Heartbeats are the pulse that gaps are measured by; a guest without them is measured by its
 * writes.
 */
function pulseOf(segments: readonly SerialSegment[]): (text: string) => boolean {
  const hasBeats = segments.some(({ lines }) => lines.some(({ text }) => text.startsWith('H ')));
  return (text) => text.startsWith(hasBeats ? 'H ' : 'A ');
}

/** A disk that is still being copied. */
export interface DiskToCopy {
  readonly diskId: string;
  /** What the guest writes, in bytes per second; undefined where nobody has measured it. */
  readonly writeRate: number | undefined;
}

/** What is seen of the copying when the turns are looked at. */
export interface CopyFigures {
  readonly atMs: number;
  /** The disks that are not equal yet. */
  readonly disks: readonly DiskToCopy[];
  /** Bytes that all mirrors together have copied so far. */
  readonly copiedBytes: number;
  /** True where they may not copy faster: another disk at once adds nothing then. */
  readonly limited: boolean;
}

/** A disk is hot when its guest writes more than this, in bytes per second... */
const HOT_BYTES_PER_S = 256 * 1024;
/** ...and more than this part of what is copied. */
const HOT_PART = 0.02;

/** So long a rate is measured before it is believed, in milliseconds. */
const MEASURED_MS = 1_000;

/** Another disk at once must add this part, or it waits. */
const WORTH_PART = 0.1;

/** A best rate of the past counts for less and less, by this part in each measurement. */
const FORGOTTEN_PART = 0.05;

/** The speed of a disk that waits for its turn, in bytes per second: QEMU's zero is no limit. */
export const PARKED_BYTES_PER_S = 1;

/**
 * Decides which disks are copied now. Whatever a guest writes to a disk that has been copied must
 * be copied again, so the disks that are written to most come last. All others are copied at once;
 * and hot ones join them, coldest first, as long as the link or the storage has something left for
 * them.
 */
export class CopyOrder {
  #mark: { readonly atMs: number; readonly bytes: number } | undefined;
  #bestRate = 0;
  /** Hot disks that are copied though it is not their turn. */
  #extra = 0;
  /** The rate before the last one of them joined. */
  #rateBefore: number | undefined;
  /** More of them have proved to be of no use. */
  #knee = Number.POSITIVE_INFINITY;
  #waiting = 0;

  /** The ids of the disks to be copied now: at first all of them, so that a rate is known. */
  next({ atMs, disks, copiedBytes, limited }: CopyFigures): ReadonlySet<string> {
    this.#mark ??= { atMs, bytes: copiedBytes };
    if (disks.length !== this.#waiting) this.#begin(disks.length, { atMs, bytes: copiedBytes });
    const rate = this.#measure(atMs, copiedBytes);
    const known = disks.every(({ writeRate }) => writeRate !== undefined);
    if (this.#bestRate === 0 || !known) return new Set(disks.map(({ diskId }) => diskId));
    const sorted = disks.toSorted((one, other) => writeRateOf(one) - writeRateOf(other));
    const hottest = Math.max(HOT_BYTES_PER_S, HOT_PART * this.#bestRate);
    const cold = sorted.filter((disk) => writeRateOf(disk) <= hottest).length;
    const least = Math.max(1, cold);
    if (limited) this.#forget();
    else if (rate !== undefined) this.#weigh(rate, least < sorted.length);
    return new Set(sorted.slice(0, least + this.#extra).map(({ diskId }) => diskId));
  }

  /** What was tried before and found to be of no use may be of use again. */
  #forget(): void {
    this.#extra = 0;
    this.#rateBefore = undefined;
    this.#knee = Number.POSITIVE_INFINITY;
  }

  #begin(waiting: number, mark: { readonly atMs: number; readonly bytes: number }): void {
    if (this.#waiting > 0) {
      this.#mark = mark;
      this.#extra = 0;
    }
    this.#waiting = waiting;
    this.#rateBefore = undefined;
    this.#knee = Number.POSITIVE_INFINITY;
  }

  /** The rate since the last measurement, once it has lasted long enough. */
  #measure(atMs: number, bytes: number): number | undefined {
    const mark = this.#mark;
    if (!mark || atMs - mark.atMs < MEASURED_MS) return undefined;
    const rate = (Math.max(0, bytes - mark.bytes) * 1000) / (atMs - mark.atMs);
    this.#bestRate = Math.max(rate, this.#bestRate * (1 - FORGOTTEN_PART));
    this.#mark = { atMs, bytes };
    return rate;
  }

  #weigh(rate: number, someWait: boolean): void {
    const before = this.#rateBefore;
    this.#rateBefore = undefined;
    if (before !== undefined && rate < before * (1 + WORTH_PART)) {
      this.#extra--;
      this.#knee = this.#extra;
    } else if (someWait && rate < this.#bestRate * (1 - WORTH_PART) && this.#extra < this.#knee) {
      this.#extra++;
      this.#rateBefore = rate;
    }
  }
}

/**
 * Divides a speed for all, in bytes per second, among the disks that are copied now; the others are
 * parked. 0 is no limit.
 */
export function sharesOf(
  total: number,
  diskIds: readonly string[],
  running: ReadonlySet<string>,
): ReadonlyMap<string, number> {
  const count = diskIds.filter((diskId) => running.has(diskId)).length;
  const share = total === 0 ? 0 : Math.max(PARKED_BYTES_PER_S, Math.floor(total / count));
  return new Map(
    diskIds.map((diskId) => [diskId, running.has(diskId) ? share : PARKED_BYTES_PER_S]),
  );
}

function writeRateOf({ writeRate = 0 }: DiskToCopy): number {
  return writeRate;
}

import { readFileSync } from 'node:fs';
import { type Acknowledgement, decodeSector } from './guest.js';

/** What became of a fake guest's numbered writes. All three are empty if everything went well. */
export interface FakeVerdict {
  /** Acknowledged more than once: the guest ran twice. */
  readonly doubled: readonly number[];
  /** Never acknowledged although a later one was: RAM of another moment was loaded. */
  readonly skipped: readonly number[];
  /** Acknowledged, and not on the disk that the guest has now. */
  readonly lost: readonly number[];
}

/**
 * Judges all runs of one guest, on whichever QEMU, and the images of its writable disks as they are
 * now.
 */
export function judgeFakeGuest(
  runs: readonly { readonly acknowledged: readonly Acknowledgement[] }[],
  images: readonly string[],
): FakeVerdict {
  const all = runs.flatMap(({ acknowledged }) => acknowledged);
  const seen = new Set<number>();
  const doubled = new Set<number>();
  for (const { sequence } of all) {
    if (seen.has(sequence)) doubled.add(sequence);
    seen.add(sequence);
  }
  const last = Math.max(0, ...seen);
  const skipped = Array.from({ length: last }, (_, index) => index + 1).filter((n) => !seen.has(n));
  const newest = new Map<string, Acknowledgement>();
  for (const write of all) {
    const place = `${write.diskIndex}:${write.offset}`;
    if ((newest.get(place)?.sequence ?? 0) < write.sequence) newest.set(place, write);
  }
  const disks = images.map((path) => readFileSync(path));
  const lost = [...newest.values()].filter(({ diskIndex, offset, sequence }) => {
    const sector = disks[diskIndex]?.subarray(offset, offset + 512);
    // A newer one that was not acknowledged yet may lie there: it was on its way.
    return ((sector && decodeSector(sector)) ?? 0) < sequence;
  });
  return { doubled: [...doubled], skipped, lost: lost.map(({ sequence }) => sequence) };
}

import { readDisk } from '../test/support/blocks.js';
import type { MovedGuest } from './movers/mover.js';
import { type GuestPlan, slotsOf } from './stage/guest-plan.js';

/**
 * Compares what a guest that has ended was told is durable with what its images hold. Answers in
 * words what is wrong.
 */
export async function judge(guest: MovedGuest, plan: GuestPlan): Promise<readonly string[]> {
  const { record } = guest;
  record.parse();
  const faults = [...record.faults];
  const blocksAtOnce = plan.writes.kib / 4;
  const slots = slotsOf(plan) - (slotsOf(plan) % blocksAtOnce);
  for (const [number, path] of guest.imagePaths.entries()) {
    const newest = record.newest.get(number);
    if (newest === undefined) {
      faults.push(`disk ${number} was never written`);
      continue;
    }
    const { blocks } = await readDisk(path, { guest: 'linux', slots });
    // Each slot holds the newest number that was acknowledged for it, or one that came later.
    const oldest = Math.max(0, newest - slots + 1);
    let lost = 0;
    for (
      let seq = Math.max(oldest, firstSeq(record.acks, number, blocksAtOnce));
      seq <= newest;
      seq++
    ) {
      if ((blocks.get(seq % slots) ?? -1) < seq) lost++;
    }
    if (lost > 0) faults.push(`disk ${number}: ${lost} acknowledged blocks are missing`);
  }
  return faults;
}

function firstSeq(
  acks: readonly { readonly disk: number; readonly seq: number }[],
  disk: number,
  blocksAtOnce: number,
): number {
  const first = acks.find((ack) => ack.disk === disk)?.seq ?? 0;
  return first - blocksAtOnce + 1;
}

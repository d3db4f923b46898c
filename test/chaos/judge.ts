import { join } from 'node:path';
import type { GuestBook } from './book.js';
import type { Fault, Place } from './faults.js';
import type { ChaosFleet, HostName } from './fleet.js';
import type { Observation } from './observe.js';

/** How long a guest that runs may take to show it. */
export const LIFE_LIMIT_MS = 10_000;
/** Enough for a few lines of the guest. */
export const SOME_BYTES = 60;

/** What is judged: the hosts, the guest's numbers, and where the guest is. */
interface Scene {
  readonly fleet: ChaosFleet;
  readonly book: GuestBook;
  where: HostName;
}

/**
 * Judges what became of a guest: it is where it may be, it writes, nothing that it wrote is lost or
 * there twice, and what the migration says of itself is so.
 *
 * @param fault The fault that struck, if one did.
 * @returns What is wrong, in words.
 */
export async function judge(
  scene: Scene,
  found: Observation,
  source: HostName,
  fault: Fault | undefined,
): Promise<string[]> {
  const { owner, state, migration } = found;
  if (!owner) return ['nobody has the guest'];
  scene.where = owner;
  const violations: string[] = [];
  const { book } = scene;
  if (fault?.disks && migration?.state === 'STATE_SUCCEEDED') {
    // The bad disk is the guest's now, and whatever it meets there is none of the migration's.
    book.toleratesErrors = true;
  } else if (state === 'STATE_RUNNING') {
    await book.grows(owner, SOME_BYTES, LIFE_LIMIT_MS).catch((error: Error) => {
      violations.push(error.message);
    });
  }
  violations.push(...book.read(fault?.restartsGuest ? 1 : 0));
  violations.push(...(await compare(scene, owner)));
  violations.push(...checkTruth(found, source));
  const place = placeOf(found, source);
  const places: readonly string[] = fault?.places ?? ['source', 'destination'];
  if (!places.includes(place)) violations.push(`the guest is at ${place}`);
  const reason = migration?.failure?.reason;
  const fits: readonly string[] = fault?.reasons ?? [];
  if (reason && !fits.includes(reason)) {
    violations.push(`unexplained: ${reason}: ${migration?.failure?.message}`);
  }
  return violations;
}

async function compare({ fleet, book }: Scene, owner: HostName): Promise<string[]> {
  const { home } = fleet.host(owner).parts;
  const names = Array.from({ length: fleet.setup.disks }, (_, index) => `disk${index}.raw`);
  const paths = names.map((name) => join(home, 'pool', fleet.uuid, name));
  return await book.compare(paths).catch((error) => [String(error)]);
}

/** Lets a guest run again that is down, paused, or on a disk that the fault has spoiled. */
export async function revive(
  { fleet, book }: Scene,
  { owner, state }: Observation,
  fault: Fault,
): Promise<string[]> {
  if (!owner) return [];
  const host = fleet.host(owner);
  const domain = fleet.uuid;
  if (state === 'STATE_PAUSED' && !fault.disks) {
    await host.monitor(domain, (qmp) => qmp.execute('cont'));
    return [];
  }
  if (state !== 'STATE_STOPPED' && !fault.disks) return [];
  await host.client.domains.stopDomain({ domain, force: true });
  book.read();
  await host.client.domains.startDomain({ domain });
  await book.grows(owner, SOME_BYTES, LIFE_LIMIT_MS);
  const faults = book.read(1);
  book.toleratesErrors = false;
  return faults;
}

/** A guest may have been paused by its user, or by QEMU because its disk is full. */
export function mayBePaused(fault: Fault): boolean {
  return fault.pausesGuest === true || fault.disks !== undefined;
}

/** Where a guest is, seen from the migration that was to move it. */
export function placeOf({ owner, state }: Observation, source: HostName): Place | 'unknown' {
  if (!owner) return 'unknown';
  const side = owner === source ? 'source' : 'destination';
  return state === 'STATE_STOPPED' ? `${side} down` : side;
}

/** What a migration says of itself must be so. */
function checkTruth({ owner, state, migration }: Observation, source: HostName): string[] {
  if (!migration) return [];
  const side = owner === source ? 'SOURCE' : 'DESTINATION';
  const succeeded = migration.state === 'STATE_SUCCEEDED';
  const faults: string[] = [];
  if (succeeded && side !== 'DESTINATION') faults.push('it says SUCCEEDED, and has not moved');
  const says = migration.runningOn.replace('RUNNING_ON_', '');
  const down = state === 'STATE_STOPPED';
  // A guest may go down after the end of its migration.
  const fits = says === side || (down && (says === 'NOWHERE' || says === side));
  if (!fits) faults.push(`it says that the guest runs on ${says}; it is on ${side} (${state})`);
  if (!succeeded && side === 'DESTINATION' && !down) {
    faults.push(`it says ${migration.state}, and the guest has moved`);
  }
  return faults;
}

import { join } from 'node:path';
import { Decider } from '../migration/decider.js';
import { stepSource } from '../migration/handover.js';
import {
  destinationMayRun,
  isTaken,
  outranks,
  type Rank,
  type SourceEvent,
  type SourceState,
  sourceMayRun,
} from '../migration/handover-types.js';
import type { JournalHeader } from '../migration/journal.js';
import { readDestination, readEnd, readPaused, readSource } from '../migration/journal-reading.js';
import { type JournalFile, Journals } from '../migration/journals.js';
import { qemuPaths } from '../process/qemu-directory.js';
import { inspectBinding } from '../process/state-binding.js';
import { StateLock } from '../process/state-lock.js';
import type { Log } from '../util/log.js';
import { freeGuest, type Sight, sightGuest } from './rescue-guest.js';

/** Where an agent keeps its journals and the sockets of its QEMUs. */
export interface RescueDirectories {
  readonly state: string;
  readonly run: string;
}

/**
 * What came of looking after the guests. `nothing`: no guest is leaving that the source may run;
 * `fine`: some are, and none is held; `freed`; `locked`: somebody else has the state; `failed`: a
 * guest is, or may be, still held.
 */
export type Outcome = 'nothing' | 'fine' | 'freed' | 'locked' | 'failed';

/**
 * A migration that has not ended, whose source may run the guest without asking anybody: it is
 * undecided, or it has been given up and the guest was not brought back yet.
 */
interface Leaving {
  readonly path: string;
  readonly header: JournalHeader;
  readonly state: SourceState;
  readonly monitorPath: string;
  readonly log: Log;
}

/**
 * Tells, changing nothing, whether a migration holds a guest stopped that the source may run. A
 * QEMU that does not answer may be waiting for the agent itself; the guest of one whose journal
 * says SWITCHING is stopped.
 */
export async function lookAtGuests(
  directories: RescueDirectories,
  log: Log,
): Promise<'nothing' | 'fine' | 'held'> {
  const found = await findLeaving(directories, log);
  if (found.length === 0) return 'nothing';
  const held = await Promise.all(
    found.map(async ({ monitorPath, header, state }) => {
      const sight = await sightGuest(monitorPath, header.domainUuid);
      return isStuck(sight) || (sight === 'silent' && state.record === 'SWITCHING');
    }),
  );
  return held.includes(true) ? 'held' : 'fine';
}

/**
 * Lets every guest run again that a migration holds stopped and the source may run. Takes the
 * state's lock for that, so that no agent acts meanwhile, and only where there is such a guest.
 * Never rejects.
 */
export async function freeGuests(directories: RescueDirectories, log: Log): Promise<Outcome> {
  try {
    const found = await findLeaving(directories, log);
    if (found.length === 0) return 'nothing';
    const sights = await Promise.all(
      found.map(({ monitorPath, header }) => sightGuest(monitorPath, header.domainUuid)),
    );
    const stuck = found.filter((_, index) => isStuck(sights[index])).map(({ path }) => path);
    for (const [index, { log: own }] of found.entries()) {
      if (sights[index] === 'silent') own.warn({}, 'QEMU does not answer');
    }
    if (stuck.length === 0) return sights.includes('silent') ? 'failed' : 'fine';
    await using lock = await StateLock.tryAcquire(directories.state);
    if (!lock) return 'locked';
    // An agent may have been here since.
    const still = await findLeaving(directories, log);
    const rest = still.filter(({ path }) => stuck.includes(path));
    const freed = await Promise.all(rest.map((one) => free(one, directories)));
    return freed.every(Boolean) ? 'freed' : 'failed';
  } catch (error) {
    log.error({ err: error }, 'the guests could not be looked after');
    return 'failed';
  }
}

async function findLeaving(directories: RescueDirectories, log: Log): Promise<Leaving[]> {
  const { journals, quarantine, bootId } = await openJournals(directories);
  if (quarantine) return [];
  const files = await journals.readAll();
  return files.flatMap((file) => {
    const { header, side, health, path, domainUuid } = file;
    if (!header || side !== 'source' || health !== 'sound' || isEnded(file)) return [];
    const state = readSource({ ...file, header });
    // A guest that its user had paused does not wait to run; and no QEMU outlives a boot.
    const waits = header.bootId === bootId && !readPaused({ ...file, header });
    const others = files.filter((other) => other !== file && other.domainUuid === domainUuid);
    const ours = sourceMayRun(state) && others.every((other) => allows(other, state.rank));
    if (!waits || !ours) return [];
    const monitorPath = qemuPaths(join(directories.run, domainUuid)).rescueMonitor;
    const { domainName: domain, migrationId: migration_id } = header;
    return [{ path, header, state, monitorPath, log: log.child({ domain, migration_id }) }];
  });
}

/** Frees one guest, and says whether nothing is left to do. */
async function free(one: Leaving, directories: RescueDirectories): Promise<boolean> {
  const { header, monitorPath, log } = one;
  try {
    const now = await freeGuest({
      monitorPath,
      uuid: header.domainUuid,
      decide: (status) => decide(one, status, directories),
    });
    log.warn({ guest: now }, isStuck(now) ? 'the guest is not to run here' : 'the guest is free');
    return true;
  } catch (error) {
    log.error({ err: error }, 'the guest could not be freed');
    return false;
  }
}

/** Lets the reducer decide, and writes what it says; true where the guest is to run here. */
async function decide(
  { path, header, log }: Leaving,
  status: 'finish-migrate' | 'postmigrate',
  directories: RescueDirectories,
): Promise<boolean> {
  const { journals, bootId } = await openJournals(directories);
  await using journal = await journals.open(path);
  const state = readSource(journal);
  if (!sourceMayRun(state)) return false;
  const decider = new Decider<SourceState, SourceEvent>({
    state,
    step: stepSource,
    journal,
    standDown: async () => {},
  });
  const qemu = status === 'postmigrate' ? 'completed' : 'switching';
  const sameBoot = header.bootId === bootId;
  const event = { type: 'restarted', qemu, sameBoot, mirrored: false } as const;
  const effects = await decider.decide(event, { by: 'rescue', guest: status });
  log.warn({ was: state.record, record: decider.state.record, guest: status }, 'decided');
  return effects.some(({ type }) => type === 'run-here');
}

async function openJournals({ state }: RescueDirectories) {
  const { binding, mismatches } = await inspectBinding(state);
  const journals = new Journals({ folder: join(state, 'journal'), binding });
  const { bootId = '' } = binding;
  // Without it nothing tells whether the host has booted since.
  return { journals, bootId, quarantine: mismatches.length > 0 || bootId === '' };
}

/**
 * True unless another journal of the same domain says, or may say, that the guest must not run
 * here. What is about an older copy of the domain is history.
 */
function allows(file: JournalFile, rank: Rank): boolean {
  const { header, side, health } = file;
  if (!header || health !== 'sound') return false;
  if (side === 'source') {
    const state = readSource({ ...file, header });
    return sourceMayRun(state) || outranks(rank, state.rank);
  }
  const state = readDestination({ ...file, header });
  const came = destinationMayRun(state) || isTaken(state.record) || state.record === 'ABORTED';
  return came || outranks(rank, state.rank);
}

function isEnded(file: JournalFile): boolean {
  return file.header !== undefined && readEnd({ ...file, header: file.header }) !== undefined;
}

function isStuck(sight: Sight | undefined): boolean {
  return sight === 'finish-migrate' || sight === 'postmigrate';
}

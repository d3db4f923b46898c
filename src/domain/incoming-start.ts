import { UndoStack } from '../util/undo-stack.js';
import type { MemoryReservation } from './host-resources.js';
import { makeImages, poolsOf, reserveRoom } from './images.js';
import { assertWaiting, startFurther } from './incoming-again.js';
import { QemuIncomingDomain } from './incoming-domain.js';
import { type IncomingBooks, IncomingHold } from './incoming-hold.js';
import { planIncoming } from './incoming-plan.js';
import { type DomainTools, launchQemu, nameTaps, runFolder } from './launch.js';
import type { Reservation } from './pools.js';
import type { Refusals } from './refusals.js';
import type { IncomingDomain, IncomingRequest, WaitOptions } from './types.js';

/**
 * Checks, reserves and makes everything for an incoming domain and starts its QEMU. Whatever fails,
 * nothing of it is left. `refusals` holds what the host has against the domain by itself.
 *
 * @throws DomainError with all violations
 */
export async function startIncoming(
  request: IncomingRequest,
  books: IncomingBooks,
  refusals: Refusals,
  tools: DomainTools,
  options: WaitOptions,
): Promise<IncomingDomain> {
  const { resources, definitions } = tools;
  const { log, host, data, carrier } = resources.settings;
  await using undo = new UndoStack(({ step, error }) =>
    log.error({ err: error, step, migration_id: request.migrationId }, 'could not undo a step'),
  );
  undo.defer('close the books', () => books.gone());
  const { definition: planned, wishes } = await planIncoming(request, resources, refusals, options);
  const { uuid, name, memoryBytes } = planned.spec;
  const memory = await refusals.check('memory', () => resources.reserveMemory(memoryBytes));
  if (memory) undo.defer('give the memory back', () => memory.release());
  const room = await refusals.check('disks', () => reserveRoom(uuid, wishes));
  if (room) undo.defer('give the room back', () => room.release());
  refusals.throwIfAny(`${host} cannot take the domain ${name}`, 'destination');

  const taps = nameTaps(planned.spec);
  const definition = { ...planned, taps: Object.values(taps) };
  // Written before anything is made, so that the next life of the agent finds all of it.
  const record = {
    migrationId: request.migrationId,
    attempt: request.attempt,
    epoch: request.epoch,
    generation: request.generation,
    sourceHost: request.sourceHost,
    definition,
    pools: poolsOf(wishes).map((pool) => pool.name),
    roomBytes: Object.fromEntries(wishes.map(({ image, roomBytes }) => [image.diskId, roomBytes])),
    again: undefined,
  };
  undo.defer('forget the incoming domain', () => definitions.removeIncoming(uuid));
  await definitions.writeIncoming(uuid, record);
  await makeImages(uuid, wishes, undo, options);
  const directory = runFolder(uuid, resources);
  const launch = { definition, taps, mode: 'incoming', directory } as const;
  const process = await launchQemu(launch, tools, undo, options);
  books.started(process.record.process.pid, process);
  await assertWaiting(process, options);
  const started = { ...definition, process: process.record };
  const waiting = { ...record, definition: started };
  await definitions.writeIncoming(uuid, waiting);
  memory?.startedAs(process.record.process.pid);
  const rest = undo.move();
  const hold = new IncomingHold(
    {
      definition: started,
      wishes,
      // Both are there, or the refusals would have been thrown.
      memory: memory as MemoryReservation,
      room: room as Reservation,
      discard: () => rest[Symbol.asyncDispose](),
      keep: () => rest.release(),
    },
    books,
  );
  return new QemuIncomingDomain({
    process,
    attempt: request.attempt,
    disks: request.launchSpec.disks,
    directory,
    doors: {
      host,
      sourceHost: request.sourceHost,
      data,
      carrier,
      pskIdentity: pskIdentity(request),
    },
    allocated: () => hold.allocated(),
    written: () => hold.written(),
    startAgain: async (attempt, limits) => {
      await hold.discardFurther();
      const further = await startFurther(waiting, attempt, rest, tools, limits);
      books.started(further.process.record.process.pid, further.process);
      hold.replace(further);
      return further;
    },
    discard: () => hold.discard(),
    arrive: (qemu) => hold.arrive(qemu),
    report: (step, error) =>
      log.warn({ err: error, step, migration_id: request.migrationId }, 'could not undo a step'),
  });
}

/** The name of the key of an incoming QEMU's NBD server, and the beginning of that of its RAM's. */
export function pskIdentity(of: Pick<IncomingRequest, 'migrationId' | 'attempt'>): string {
  return `${of.migrationId}.${of.attempt}`;
}

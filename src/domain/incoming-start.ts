import type { QemuProcess } from '../process/qemu-process.js';
import { UndoStack } from '../util/undo-stack.js';
import type { Definition } from './definitions.js';
import { DomainError } from './errors.js';
import { QemuFaults } from './faults.js';
import type { MemoryReservation } from './host-resources.js';
import type { RunningQemu } from './hosted-domain.js';
import { type ImageWish, makeImages, poolsOf, reserveRoom } from './images.js';
import { QemuIncomingDomain } from './incoming-domain.js';
import { planIncoming } from './incoming-plan.js';
import { type DomainTools, launchQemu, nameTaps, runFolder } from './launch.js';
import type { Reservation } from './pools.js';
import type { Refusals } from './refusals.js';
import type { IncomingDomain, IncomingRequest, WaitOptions } from './types.js';

/** What becomes of an incoming domain, for the host that keeps the books. */
export interface IncomingBooks {
  /** What the host knew of the domain before: that it had moved away, or nothing. */
  readonly earlier: Definition | undefined;
  /** Its QEMU waits for it. */
  started(pid: number): void;
  /** It has come to stay. */
  arrived(definition: Definition, running: RunningQemu): void;
  /** It has not come, and nothing of it is left. */
  gone(): void;
}

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
  const { log, host } = resources.settings;
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
    generation: request.generation,
    definition,
    pools: poolsOf(wishes).map((pool) => pool.name),
  };
  undo.defer('forget the incoming domain', () => definitions.removeIncoming(uuid));
  await definitions.writeIncoming(uuid, record);
  await makeImages(uuid, wishes, undo, options);
  const process = await launchQemu(definition, taps, 'incoming', tools, undo, options);
  books.started(process.record.process.pid);
  await assertWaiting(process, options);
  const started = { ...definition, process: process.record };
  await definitions.writeIncoming(uuid, { ...record, definition: started });
  // Both are there, or the refusals would have been thrown.
  const running = { process, memory: memory as MemoryReservation };
  running.memory.startedAs(process.record.process.pid);
  const held = { running, room: room as Reservation, undo: undo.move() };
  const incoming = new Incoming(started, wishes, held, books, tools);
  return new QemuIncomingDomain({
    process,
    request,
    directory: runFolder(uuid, resources),
    data: resources.settings.data,
    own: () => incoming.own(),
    allocated: () => incoming.allocated(),
    disown: () => incoming.disown(),
    discard: () => incoming.discard(),
    keep: () => incoming.keep(),
    report: (step, error) =>
      log.warn({ err: error, step, migration_id: request.migrationId }, 'could not undo a step'),
  });
}

/** Nothing is sent to a QEMU that is not this domain's, or that would run its guest by itself. */
async function assertWaiting(process: QemuProcess, options: WaitOptions): Promise<void> {
  using faults = new QemuFaults(process, 'destination');
  try {
    const [{ UUID: uuid }, { status }] = await Promise.all([
      process.qmp.execute('query-uuid', {}, options),
      process.qmp.execute('query-status', {}, options),
    ]);
    if (uuid === process.record.uuid && status === 'inmigrate') return;
    throw new DomainError('INTERNAL', `The new QEMU of ${uuid} is ${status}, and does not wait.`, {
      side: 'destination',
    });
  } catch (error) {
    throw await faults.explain(error, 'starting the twin');
  }
}

/** What this host holds for a domain on its way in, until it has come or not. */
class Incoming {
  readonly #definition: Definition;
  readonly #wishes: readonly ImageWish[];
  readonly #running: RunningQemu;
  readonly #room: Reservation;
  readonly #undo: UndoStack;
  readonly #books: IncomingBooks;
  readonly #tools: DomainTools;
  #owned = false;

  constructor(
    definition: Definition,
    wishes: readonly ImageWish[],
    held: { readonly running: RunningQemu; readonly room: Reservation; readonly undo: UndoStack },
    books: IncomingBooks,
    tools: DomainTools,
  ) {
    this.#definition = definition;
    this.#wishes = wishes;
    this.#running = held.running;
    this.#room = held.room;
    this.#undo = held.undo;
    this.#books = books;
    this.#tools = tools;
  }

  async own(): Promise<void> {
    // A write that fails may have reached the disk all the same.
    this.#owned = true;
    await this.#tools.definitions.write(this.#definition);
  }

  async allocated(): Promise<Readonly<Record<string, number>>> {
    const sizes = this.#wishes.map(async ({ pool, image }) => {
      const location = pool.locate(image.uuid, image.diskId, image.format);
      return [image.diskId, await pool.allocatedBytes(location)] as const;
    });
    return Object.fromEntries(await Promise.all(sizes));
  }

  async discard(): Promise<void> {
    await this.disown();
    await this.#undo[Symbol.asyncDispose]();
  }

  keep(): void {
    this.#undo.release();
    this.#room.release();
    this.#books.arrived(this.#definition, this.#running);
  }

  // The guest never ran here. That is written when it no longer can, and before its images go: a
  // crash in between must not leave a domain that this host believes to own.
  async disown(): Promise<void> {
    if (!this.#owned) return;
    await this.#running.process.kill();
    const { definitions } = this.#tools;
    const { earlier } = this.#books;
    if (earlier) await definitions.write(earlier);
    else await definitions.remove(this.#definition.spec.uuid);
    this.#owned = false;
  }
}

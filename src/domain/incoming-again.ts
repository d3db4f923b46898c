import type { QemuProcess } from '../process/qemu-process.js';
import { UndoStack } from '../util/undo-stack.js';
import type { IncomingRecord } from './definitions.js';
import { DomainError } from './errors.js';
import { QemuFaults } from './faults.js';
import type { MemoryReservation } from './host-resources.js';
import type { WaitingQemu } from './incoming-domain.js';
import { type DomainTools, launchQemu, runFolder } from './launch.js';
import type { WaitOptions } from './types.js';

/** A further QEMU that waits for the same guest. */
export interface FurtherQemu extends WaitingQemu {
  readonly memory: MemoryReservation;
  /** Undoes all of it, once. */
  discard(): Promise<void>;
}

/**
 * Starts one more QEMU on the images of an incoming domain, for RAM that is sent once more. It must
 * not run the guest before the first one, which serves the disks, has ended. What is made is undone
 * with `undo`, and written down before it is made.
 *
 * @throws DomainError `RAM_FAILED` for a domain with a tap, which cannot be opened twice;
 * `NO_MEMORY`, `QEMU_START_FAILED`, ...
 */
export async function startFurther(
  incoming: IncomingRecord,
  attempt: number,
  undo: UndoStack,
  tools: DomainTools,
  options: WaitOptions,
): Promise<FurtherQemu> {
  const { resources, definitions } = tools;
  const { definition } = incoming;
  const { uuid, name, memoryBytes } = definition.spec;
  if (definition.taps.length > 0) {
    throw new DomainError(
      'RAM_FAILED',
      `The RAM of ${name} cannot be sent once more: two QEMUs cannot open one tap.`,
      { side: 'destination', hint: 'Start the migration again.' },
    );
  }
  await using made = new UndoStack(({ step, error }) =>
    resources.settings.log.error({ err: error, step, uuid }, 'could not undo a step'),
  );
  const memory = await resources.reserveMemory(memoryBytes);
  made.defer('give the memory back', () => memory.release());
  await definitions.writeIncoming(uuid, { ...incoming, again: { attempt, process: undefined } });
  const directory = runFolder(uuid, resources, attempt);
  const launch = { definition, taps: {}, mode: 'incoming', directory } as const;
  const process = await launchQemu(launch, tools, made, options);
  memory.startedAs(process.record.process.pid);
  await assertWaiting(process, options);
  await definitions.writeIncoming(uuid, {
    ...incoming,
    again: { attempt, process: process.record },
  });
  const rest = made.move();
  const discard = () => rest[Symbol.asyncDispose]();
  undo.defer('end the further QEMU', discard);
  return { process, directory, memory, discard };
}

/** Nothing is sent to a QEMU that is not this domain's, or that would run its guest by itself. */
export async function assertWaiting(process: QemuProcess, options: WaitOptions): Promise<void> {
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

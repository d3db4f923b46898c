import type { QemuProcess } from '../process/qemu-process.js';
import { UndoStack } from '../util/undo-stack.js';
import { kernelSha256 } from './digests.js';
import type { MemoryReservation } from './host-resources.js';
import { type DomainTools, launchQemu, nameTaps, removeRunFolders, runFolder } from './launch.js';
import type { Ownership } from './ownership.js';
import { Refusals } from './refusals.js';
import { checkRequirements } from './requirements.js';
import type { WaitOptions } from './types.js';

/** A QEMU that runs a domain here. */
export interface RunningQemu {
  readonly process: QemuProcess;
  readonly memory: MemoryReservation;
}

/**
 * Checks what a domain of this host needs and starts its QEMU with the guest stopped. The next life
 * of the agent finds it when this resolves.
 */
export async function startQemu(
  ownership: Ownership,
  tools: DomainTools,
  options: WaitOptions,
): Promise<RunningQemu> {
  const { resources } = tools;
  const { log } = resources.settings;
  const { spec } = ownership.definition;
  const refusals = new Refusals();
  await checkRequirements(spec, resources, refusals, options);
  refusals.throwIfAny(`The domain ${spec.name} cannot be started`);
  await using undo = new UndoStack(({ step, error }) =>
    log.warn({ err: error, step }, 'could not undo a step'),
  );
  const memory = await resources.reserveMemory(spec.memoryBytes);
  undo.defer('give the memory back', () => memory.release());
  const kernel = spec.kernel === '' ? undefined : resources.kernel(spec.kernel);
  const sha256 = kernel ? await kernelSha256(kernel, options) : '';
  const taps = nameTaps(spec);
  // Written before they are made, so that a crash in between leaves nothing that nobody knows.
  await ownership.update({ taps: Object.values(taps), kernelSha256: sha256 });
  await removeRunFolders(spec.uuid, resources);
  const directory = runFolder(spec.uuid, resources);
  const launch = { definition: ownership.definition, taps, mode: 'stopped', directory } as const;
  const process = await launchQemu(launch, tools, undo, options);
  undo.defer('forget QEMU', () => ownership.update({ process: undefined, taps: [] }));
  // The guest runs only when the next life of the agent would find it.
  await ownership.update({ process: process.record });
  undo.release();
  log.info({ domain: spec.name, pid: process.record.process.pid }, 'started a domain');
  return { process, memory };
}

import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ProcessError } from '../process/errors.js';
import type { ProcessUser } from '../process/launcher.js';
import { withProbe } from '../process/probe.js';
import { QemuProcess } from '../process/qemu-process.js';
import { TapError } from '../process/tap.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import { removeFolder } from '../util/held-folder.js';
import type { Side } from '../util/reasoned-error.js';
import type { UndoStack } from '../util/undo-stack.js';
import type { Definition, Definitions } from './definitions.js';
import type { Doubts } from './doubts.js';
import { DomainError } from './errors.js';
import { cpuArgument } from './fixed-cpu.js';
import { giveSerialFile } from './host-folders.js';
import type { HostResources } from './host-resources.js';
import { type LaunchMode, type LaunchPlaces, launchArguments } from './launch-arguments.js';
import { launchLimits } from './launch-limits.js';
import type { ImageLocation } from './pools.js';
import type { WaitOptions } from './types.js';

/** What domains are kept and started with. */
export interface DomainTools {
  readonly resources: HostResources;
  readonly definitions: Definitions;
  readonly doubts: Doubts;
}

/**
 * The private folder of a domain's QEMU while it runs. Each further QEMU of one migration has one
 * of its own.
 */
export function runFolder(uuid: string, { settings }: HostResources, attempt = 1): string {
  return join(settings.directories.run, attempt === 1 ? uuid : `${uuid}.${attempt}`);
}

/** Removes the folders of all QEMUs of a domain. */
export async function removeRunFolders(uuid: string, { settings }: HostResources): Promise<void> {
  const { run } = settings.directories;
  const names = await readdir(run).catch(() => []);
  for (const name of names) {
    if (name !== uuid && !name.startsWith(`${uuid}.`)) continue;
    await removeFolder(join(run, name));
  }
}

/**
 * Where the serial console is: a file that outlives QEMU, or a socket beside the monitors of the
 * one in `directory`.
 */
export function serialPath(
  spec: DomainSpec,
  { definitions }: DomainTools,
  directory: string,
): string {
  if (!spec.serial) return '';
  return spec.serial.type === 'file'
    ? join(definitions.folder(spec.uuid), 'serial.log')
    : join(directory, 'serial.sock');
}

/** A QEMU to start. */
export interface QemuLaunch {
  readonly definition: Definition;
  /** Names of taps by network interface id. */
  readonly taps: Readonly<Record<string, string>>;
  readonly mode: LaunchMode;
  /** Its private folder; what is there goes. */
  readonly directory: string;
}

/**
 * Names for the taps of a domain, by network interface id. Random, so that they never meet on one
 * host.
 */
export function nameTaps(spec: DomainSpec): Readonly<Record<string, string>> {
  const taps = spec.nics.filter(({ type }) => type === 'tap');
  return Object.fromEntries(taps.map(({ id }) => [id, `drv${randomBytes(5).toString('hex')}`]));
}

/**
 * Makes taps and starts QEMU with the guest stopped. `undo` takes all of it back.
 *
 * @throws DomainError `QEMU_START_FAILED`, `CPU_FEATURE_MISSING`, `BRIDGE_MISSING`, ...
 */
export async function launchQemu(
  { definition, taps, mode, directory }: QemuLaunch,
  tools: DomainTools,
  undo: UndoStack,
  options: WaitOptions,
): Promise<QemuProcess> {
  const { spec } = definition;
  const { resources } = tools;
  const { binary, launcher, transcript } = resources.settings;
  const places = await findPlaces(definition, taps, directory, tools, options);
  const argv = launchArguments(definition, places, mode);
  using held = await resources.users.hold(spec);
  const user = held?.user;
  if (user) {
    await resources.users.giveImages(spec, user);
    if (spec.serial?.type === 'file') await giveSerialFile(places.serialPath, user);
  }
  await makeTaps(spec, taps, user, resources, undo, options);
  // The log of an earlier QEMU would be taken for this one's.
  await removeFolder(directory);
  undo.defer(`remove ${directory}`, () => removeFolder(directory));
  try {
    const process = await QemuProcess.start(
      launcher,
      {
        ...{ binary: binary.path, uuid: spec.uuid, name: spec.name, directory, argv },
        limits: launchLimits(spec),
        ...(user ? { user } : {}),
      },
      { ...options, ...(transcript ? { transcript: transcript(spec.uuid) } : {}) },
    );
    undo.defer('end QEMU', () => process.kill());
    return process;
  } catch (error) {
    options.signal.throwIfAborted();
    if (!(error instanceof ProcessError)) throw error;
    const side: { side?: Side } = mode === 'incoming' ? { side: 'destination' } : {};
    throw await explainStart(error, definition, resources, side);
  }
}

async function findPlaces(
  { spec }: Definition,
  taps: Readonly<Record<string, string>>,
  directory: string,
  tools: DomainTools,
  options: WaitOptions,
): Promise<LaunchPlaces> {
  const { resources } = tools;
  const images: Record<string, ImageLocation> = {};
  for (const disk of spec.disks) {
    images[disk.id] = await resources.locate(spec.uuid, disk, options);
  }
  return {
    images,
    kernel: spec.kernel === '' ? undefined : resources.kernel(spec.kernel),
    serialPath: serialPath(spec, tools, directory),
    taps,
  };
}

async function makeTaps(
  spec: DomainSpec,
  taps: Readonly<Record<string, string>>,
  user: ProcessUser | undefined,
  { settings }: HostResources,
  undo: UndoStack,
  options: WaitOptions,
): Promise<void> {
  for (const { id, bridge } of spec.nics) {
    const name = taps[id];
    if (name === undefined) continue;
    try {
      const owner = user ? { owner: user.uid } : {};
      await settings.system.createTap({ name, bridge, ...owner }, options);
    } catch (error) {
      if (!(error instanceof TapError)) throw error;
      const reason = error.problem === 'BRIDGE_MISSING' ? 'BRIDGE_MISSING' : 'REQUEST_INVALID';
      throw new DomainError(reason, `${settings.host}: ${error.message}`, { cause: error });
    }
    undo.defer(`remove the tap ${name}`, () => settings.system.deleteTap(name));
  }
}

// What QEMU prints is for people. Whether it is the CPU is found by starting QEMU with and without
// it.
async function explainStart(
  cause: ProcessError,
  { spec, cpu }: Definition,
  { settings }: HostResources,
  side: { side?: Side },
): Promise<DomainError> {
  const machine = ['-machine', `${spec.machine},accel=${spec.accelerator}`];
  const starts = (argv: readonly string[]) =>
    withProbe(settings.binary.path, argv, {}, async () => true).catch(() => false);
  const isCpu = (await starts(machine)) && !(await starts([...machine, '-cpu', cpuArgument(cpu)]));
  const facts = { log_tail: cause.output };
  return isCpu
    ? new DomainError(
        'CPU_FEATURE_MISSING',
        `${settings.host} cannot give the domain ${spec.name} its CPU: ${cause.message}`,
        { cause, facts, ...side },
      )
    : new DomainError('QEMU_START_FAILED', `${settings.host}: ${cause.message}`, {
        cause,
        facts,
        ...side,
      });
}

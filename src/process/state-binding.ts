import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { compareBindings, type StateBinding } from '../util/binding.js';
import { writeDurably } from '../util/durable-file.js';

/** Where the facts about the machine are read. */
export interface BindingOptions {
  /** What stands before `/etc`, `/proc`, `/sys` and `/dev`. Default: nothing. */
  readonly root?: string;
  /** The number of the device behind a device file. Default: what stat(2) says. */
  readonly readDeviceNumber?: (path: string) => Promise<bigint>;
}

/** Whether a state is where it was written. */
export interface BindingVerdict {
  /** Where the state is now. */
  readonly binding: StateBinding;
  /**
   * What differs from where it was written, for people. Where there is anything, the state is in
   * quarantine: nothing may be started from it.
   */
  readonly mismatches: readonly string[];
}

/**
 * Compares a state with the `binding.json` in it, and writes that durably at the first start. Only
 * the holder of the state's lock may.
 *
 * @throws the error of the operating system
 */
export async function checkBinding(
  stateDirectory: string,
  options: BindingOptions = {},
): Promise<BindingVerdict> {
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  const verdict = await inspectBinding(stateDirectory, options);
  if (verdict.mismatches.length > 0) return verdict;
  const then = await readWritten(stateDirectory);
  // With the boot id, the next start in this boot can compare the device; and what has become
  // known since the first start is compared from now on.
  const newest = { ...(then === 'unreadable' ? {} : then), ...verdict.binding };
  if (JSON.stringify(then) !== JSON.stringify(newest)) await write(stateDirectory, newest);
  return verdict;
}

/** The same without writing anything, for whoever only looks. */
export async function inspectBinding(
  stateDirectory: string,
  options: BindingOptions = {},
): Promise<BindingVerdict> {
  const binding = await readBinding(stateDirectory, options);
  const then = await readWritten(stateDirectory);
  if (then === 'unreadable') {
    return { binding, mismatches: [`${pathIn(stateDirectory)} cannot be understood`] };
  }
  return { binding, mismatches: then ? compareBindings(then, binding) : [] };
}

/** Writes durably that the state belongs where it is now, because a person has said so. */
export async function acceptBinding(
  stateDirectory: string,
  options: BindingOptions = {},
): Promise<StateBinding> {
  const binding = await readBinding(stateDirectory, options);
  await write(stateDirectory, binding);
  return binding;
}

/** Reads where a state is now. Facts that this host lacks, or does not show us, are left out. */
export async function readBinding(
  stateDirectory: string,
  options: BindingOptions = {},
): Promise<StateBinding> {
  const { root = '/' } = options;
  const { dev, ino } = await stat(stateDirectory, { bigint: true });
  const facts = {
    machineId: await readFact(join(root, 'etc/machine-id')),
    bootId: await readFact(join(root, 'proc/sys/kernel/random/boot_id')),
    device: String(dev),
    inode: String(ino),
    productUuid: await readFact(join(root, 'sys/class/dmi/id/product_uuid')),
    fileSystemUuid: await findFileSystem(dev, options),
  };
  const known = Object.entries(facts).filter(([, value]) => value !== undefined);
  return Object.fromEntries(known) as unknown as StateBinding;
}

/** The sentence that an agent in quarantine says. */
export function describeQuarantine(stateDirectory: string, mismatches: readonly string[]): string {
  return (
    `The state in ${stateDirectory} is not where it was written: ${mismatches.join('; ')}. ` +
    'It may be a copy, and the guests may run elsewhere; no guest starts from it.'
  );
}

async function readFact(path: string): Promise<string | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim().toLowerCase() || undefined;
}

async function findFileSystem(
  device: bigint,
  { root = '/', readDeviceNumber = deviceNumber }: BindingOptions,
): Promise<string | undefined> {
  const folder = join(root, 'dev/disk/by-uuid');
  const names = await readdir(folder).catch(() => []);
  for (const name of names.sort()) {
    const number = await readDeviceNumber(join(folder, name)).catch(() => undefined);
    if (number === device) return name.toLowerCase();
  }
  return undefined;
}

async function deviceNumber(path: string): Promise<bigint> {
  const { rdev } = await stat(path, { bigint: true });
  return rdev;
}

async function readWritten(
  stateDirectory: string,
): Promise<StateBinding | undefined | 'unreadable'> {
  let text: string;
  try {
    text = await readFile(pathIn(stateDirectory), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const { version, binding } = JSON.parse(text) as { version?: unknown; binding?: unknown };
    const known = version === 1 && typeof binding === 'object' && binding !== null;
    return known && isNumber(binding, 'device') && isNumber(binding, 'inode')
      ? (binding as StateBinding)
      : 'unreadable';
  } catch {
    return 'unreadable';
  }
}

function isNumber(value: object, key: string): boolean {
  return /^\d+$/.test(String(Reflect.get(value, key)));
}

async function write(stateDirectory: string, binding: StateBinding): Promise<void> {
  const text = JSON.stringify({ version: 1, binding }, null, 2);
  await writeDurably(pathIn(stateDirectory), `${text}\n`);
}

function pathIn(stateDirectory: string): string {
  return join(stateDirectory, 'binding.json');
}

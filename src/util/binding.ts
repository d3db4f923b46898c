/**
 * Which machine and which place a state was written in. What a host does not have or does not show
 * is left out. Numbers are decimal texts, because inodes may be larger than a number holds exactly.
 */
export interface StateBinding {
  /** Of /etc/machine-id. */
  readonly machineId?: string;
  /** Of the kernel; another one after each boot. */
  readonly bootId?: string;
  /** Of the file system that the state directory lies on. May change when the host boots. */
  readonly device: string;
  readonly inode: string;
  /** Of the firmware (DMI); often only root may read it. */
  readonly productUuid?: string;
  /** Of the file system that the state directory lies on. */
  readonly fileSystemUuid?: string;
}

/** Facts that never change where a state stays where it is. */
const LASTING = {
  machineId: 'the machine id',
  productUuid: 'the product UUID of the machine',
  fileSystemUuid: 'the UUID of the file system',
  inode: 'the inode of the state directory',
} as const satisfies Partial<Record<keyof StateBinding, string>>;

/**
 * Tells what shows that a state is not where it was written; nothing if all is as it was. What was
 * not known then is not compared, what was and is not now counts as another.
 */
export function compareBindings(then: StateBinding, now: StateBinding): string[] {
  const keys = Object.keys(LASTING) as (keyof typeof LASTING)[];
  const differences = keys.flatMap((key) => difference(LASTING[key], then[key], now[key]));
  if (!devicesComparable(then, now)) return differences;
  return [
    ...differences,
    ...difference('the device of the state directory', then.device, now.device),
  ];
}

/** One sentence's part about one fact, or nothing where it is the same or was not known. */
export function difference(
  what: string,
  then: string | undefined,
  now: string | undefined,
): string[] {
  if (then === undefined || then === now) return [];
  return [`${what} was ${then} and ${now === undefined ? 'cannot be read now' : `is ${now}`}`];
}

/**
 * Whether the numbers of devices say anything: within one boot they do. Over a boot they are only
 * all there is where the UUID of the file system is not known, and nothing where there is no block
 * device below it (btrfs, overlays), because those are numbered as they are mounted.
 */
export function devicesComparable(then: StateBinding, now: StateBinding): boolean {
  if (then.bootId !== undefined && then.bootId === now.bootId) return true;
  return then.fileSystemUuid === undefined && isBlockDevice(then.device);
}

function isBlockDevice(device: string): boolean {
  const number = BigInt(device);
  return (((number >> 8n) & 0xfffn) | ((number >> 32n) & ~0xfffn)) !== 0n;
}

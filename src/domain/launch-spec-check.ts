import { quote } from '../spec/fields.js';
import type { Violation } from '../util/reasoned-error.js';
import { cpuArgument } from './fixed-cpu.js';
import type { LaunchDisk, LaunchSpec } from './launch-spec.js';

/** The most disks and network interfaces of a spec, and all devices that can have a slot. */
export const LAUNCH_LIMITS = { disks: 32, nics: 8, pciSlots: 32, cpuSettings: 512 } as const;

const TIB = 1024 ** 4;
const SIZE_LIMIT_BYTES = 64 * TIB;
/** Formats keep books of their own beside what the guest sees. */
const ALLOCATED_LIMIT_BYTES = 1024 * TIB;

/** All that a PCI bus has; which of them a device may take depends on the machine. */
const SLOT_LIMIT = 31;

const SHA256 = '[0-9a-f]{64}';
const IMAGE_SHA256 = new RegExp(`^(${SHA256})?$`);
const KERNEL_SHA256 = new RegExp(`^(${SHA256}(\\+${SHA256})?)?$`);
const QEMU_VERSION = /^\d{1,4}(\.\d{1,4}){1,3}$/;
const DISK_ID = /^[A-Za-z][A-Za-z0-9_-]{0,19}$/;
const DEVICE_ID = /^[a-z][A-Za-z0-9_-]{0,31}$/;

/**
 * Checks everything of a launch spec that is not its domain spec, by itself: kinds, patterns and
 * limits. It comes from another host, so that nothing of it may be used before.
 *
 * @returns what is wrong; at most one violation for each field, and for each disk
 */
export function checkLaunchData(launchSpec: Omit<LaunchSpec, 'spec'>): readonly Violation[] {
  return [
    ...tooMany('disks', launchSpec.disks.length, LAUNCH_LIMITS.disks),
    ...launchSpec.disks.slice(0, LAUNCH_LIMITS.disks).flatMap(checkDisk),
    ...checkCpu(launchSpec),
    ...checkSlots(launchSpec.pciSlots),
    ...unless(
      KERNEL_SHA256.test(launchSpec.kernelSha256),
      'kernelSha256',
      `must be one or two SHA-256, not ${quote(launchSpec.kernelSha256)}`,
    ),
    ...unless(
      QEMU_VERSION.test(launchSpec.qemuVersion),
      'qemuVersion',
      `must be a version such as 10.0.2, not ${quote(launchSpec.qemuVersion)}`,
    ),
  ];
}

/** Says that a list is too long, so that nobody has to look at what is in it. */
export function tooMany(subject: string, count: number, limit: number): readonly Violation[] {
  return unless(count <= limit, subject, `must be at most ${limit}, not ${count}`);
}

function checkDisk(disk: LaunchDisk, index: number): readonly Violation[] {
  const subject = `disks[${index}]`;
  const sound =
    DISK_ID.test(disk.diskId) &&
    IMAGE_SHA256.test(disk.imageSha256) &&
    typeof disk.mirrored === 'boolean' &&
    isWhole(disk.sizeBytes, SIZE_LIMIT_BYTES) &&
    isWhole(disk.allocatedBytes, ALLOCATED_LIMIT_BYTES);
  return unless(sound, subject, 'must have an id, sizes up to 64 TiB, and a SHA-256 or none');
}

function checkCpu(launchSpec: Omit<LaunchSpec, 'spec'>): readonly Violation[] {
  const { cpuModel: model, cpuFeatures: features, cpuProperties: properties } = launchSpec;
  const count = Object.keys(features).length + Object.keys(properties).length;
  const many = tooMany('cpu', count, LAUNCH_LIMITS.cpuSettings);
  if (many.length > 0) return many;
  try {
    cpuArgument({ model, features, properties });
    return [];
  } catch (error) {
    return unless(false, 'cpu', `cannot be said to QEMU: ${(error as Error).message}`);
  }
}

function checkSlots(pciSlots: Readonly<Record<string, number>>): readonly Violation[] {
  const slots = Object.entries(pciSlots);
  const many = tooMany('pciSlots', slots.length, LAUNCH_LIMITS.pciSlots);
  if (many.length > 0) return many;
  const sound = slots.every(([id, slot]) => DEVICE_ID.test(id) && isWhole(slot, SLOT_LIMIT));
  return unless(sound, 'pciSlots', 'must be devices with the numbers of their slots');
}

function isWhole(value: number, limit: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value <= limit;
}

function unless(sound: boolean, subject: string, said: string): readonly Violation[] {
  return sound ? [] : [{ reason: 'REQUEST_INVALID', subject, message: `${subject} ${said}` }];
}

import { PCI_SLOTS } from '../spec/domain-rules.js';
import { checkDomainSpec, type DomainSpec } from '../spec/domain-spec.js';
import type { LaunchDisk, LaunchSpec } from './launch-spec.js';
import { checkLaunchData } from './launch-spec-check.js';
import { pciDevices } from './pci-slots.js';
import type { Refusals } from './refusals.js';

/**
 * Checks that a launch spec is sound by itself, whole, and nothing in it open.
 *
 * @returns the spec of its domain; undefined where that is not sound
 */
export function checkIncomingData(
  launchSpec: LaunchSpec,
  refusals: Refusals,
): DomainSpec | undefined {
  const { spec, violations } = checkDomainSpec(launchSpec.spec);
  const found = [...violations, ...checkLaunchData(launchSpec)];
  for (const { reason, subject, message } of found) refusals.add(reason, subject, message);
  if (!spec) return undefined;
  const open = (subject: string) =>
    refusals.add('REQUEST_INVALID', subject, `${subject} must be fixed in a launch spec`);
  if (spec.uuid === '') open('uuid');
  if (!/\d$/.test(spec.machine) || spec.machine === 'q35') open('machine');
  for (const [index, { mac }] of spec.nics.entries()) if (mac === '') open(`nics[${index}].mac`);
  if ((spec.kernel === '') !== (launchSpec.kernelSha256 === '')) open('kernelSha256');
  checkSlots(spec, launchSpec, refusals);
  checkReportedDisks(spec, launchSpec, refusals);
  return spec;
}

function checkSlots(spec: DomainSpec, { pciSlots }: LaunchSpec, refusals: Refusals): void {
  const taken = new Set<number>();
  const { first, last } = PCI_SLOTS;
  const devices = pciDevices(spec);
  for (const device of devices) {
    const slot = Object.hasOwn(pciSlots, device) ? pciSlots[device] : undefined;
    const good = slot !== undefined && slot >= first && slot <= last;
    if (!good || !Number.isInteger(slot) || taken.has(slot)) {
      const message = `${device} needs a PCI slot of its own from ${first} to ${last}`;
      refusals.add('REQUEST_INVALID', 'pciSlots', message);
    } else taken.add(slot);
  }
  if (Object.keys(pciSlots).some((device) => !devices.includes(device))) {
    refusals.add('REQUEST_INVALID', 'pciSlots', 'there are PCI slots for devices not in the spec');
  }
}

function checkReportedDisks(spec: DomainSpec, { disks }: LaunchSpec, refusals: Refusals): void {
  if (disks.length !== spec.disks.length) {
    refusals.add('REQUEST_INVALID', 'disks', 'the launch spec must report every disk of its spec');
    return;
  }
  for (const [index, disk] of spec.disks.entries()) {
    const subject = `disks[${index}]`;
    const { diskId, sizeBytes, mirrored, imageSha256 } = disks[index] as LaunchDisk;
    if (diskId !== disk.id || mirrored !== (!disk.readOnly && !disk.shared)) {
      refusals.add('REQUEST_INVALID', subject, `the disk ${disk.id} is not reported as it is`);
    }
    if (mirrored && (sizeBytes !== disk.sizeBytes || sizeBytes <= 0)) {
      const message = `the disk ${disk.id} has ${sizeBytes} bytes, its spec says ${disk.sizeBytes}`;
      refusals.add('DISK_SIZE_MISMATCH', subject, message);
    }
    // Whoever names an image of this host's catalogue must have it: the guest reads it at once.
    if (disk.readOnly && !disk.shared && imageSha256 === '') {
      const message = `the image of ${disk.id} needs its SHA-256`;
      refusals.add('REQUEST_INVALID', subject, message);
    }
  }
}

import { PCI_SLOTS } from '../spec/domain-rules.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import { BALLOON_DEVICE, diskDevice, nicDevice, RNG_DEVICE, SCSI_CONTROLLER } from './names.js';

/**
 * Gives every device that needs one a slot on the machine's first PCI bus. Done once, at creation:
 * what the guest sees must not depend on the version of Drover that starts it. The spec has been
 * checked to fit.
 */
export function assignPciSlots(spec: DomainSpec): Readonly<Record<string, number>> {
  return Object.fromEntries(
    pciDevices(spec).map((device, index) => [device, PCI_SLOTS.first + index]),
  );
}

/** The devices of a spec that need a PCI slot, in the order in which slots are given. */
export function pciDevices(spec: DomainSpec): readonly string[] {
  const { disks, nics } = spec;
  return [
    ...(disks.some(({ bus }) => bus === 'virtio-scsi') ? [SCSI_CONTROLLER] : []),
    ...disks.filter(({ bus }) => bus === 'virtio-blk').map(({ id }) => diskDevice(id)),
    ...nics.map(({ id }) => nicDevice(id)),
    ...(spec.rng ? [RNG_DEVICE] : []),
    ...(spec.balloon ? [BALLOON_DEVICE] : []),
  ];
}

import type { LaunchSpec } from '../domain/launch-spec.js';
import { checkLaunchData, LAUNCH_LIMITS, tooMany } from '../domain/launch-spec-check.js';
import type { DomainSpec as WireDomainSpec } from '../gen/drover/v1/domain.js';
import type { LaunchSpec as WireLaunchSpec } from '../gen/drover/v1/launch_spec.js';
import { type DomainSpec, parseDomainSpec } from '../spec/domain-spec.js';
import type { Violation } from '../util/reasoned-error.js';
import { RpcError } from './errors.js';
import { uint32, uint64 } from './whole-number.js';

/** Nobody reads more numbers of fields than so many. */
const UNKNOWN_LIMIT = 20;

/** A spec in which every default is filled in. */
export function domainSpecToWire(spec: DomainSpec): WireDomainSpec {
  return {
    ...spec,
    memoryBytes: uint64(spec.memoryBytes),
    vcpus: uint32(spec.vcpus),
    disks: spec.disks.map((disk) => ({ ...disk, sizeBytes: uint64(disk.sizeBytes) })),
    nics: spec.nics.map((nic) => ({ ...nic })),
    serial: spec.serial && { ...spec.serial },
  };
}

/** What the destination needs to start the twin. */
export function launchSpecToWire(launchSpec: LaunchSpec): WireLaunchSpec {
  return {
    spec: domainSpecToWire(launchSpec.spec),
    cpuModel: launchSpec.cpuModel,
    cpuFeatures: { ...launchSpec.cpuFeatures },
    cpuProperties: { ...launchSpec.cpuProperties },
    pciSlots: mapValues(launchSpec.pciSlots, uint32),
    kernelSha256: launchSpec.kernelSha256,
    qemuVersion: launchSpec.qemuVersion,
    disks: launchSpec.disks.map((disk) => ({
      ...disk,
      sizeBytes: uint64(disk.sizeBytes),
      allocatedBytes: uint64(disk.allocatedBytes),
    })),
  };
}

/**
 * Everything in it is checked by itself, as strictly as what an operator says: a peer is not
 * trusted either. Whether this host can start it is asked later.
 *
 * @throws ReasonedError `SPEC_INVALID` or `REQUEST_INVALID` with what is wrong; `VERSION_SKEW` for
 *   fields that this version does not know
 */
export function launchSpecFromWire(wire: WireLaunchSpec | undefined): LaunchSpec {
  if (!wire?.spec) throw new RpcError('REQUEST_INVALID', 'There is no launch spec.');
  // Before anything else: of long lists nothing is worth being looked at.
  refuse([
    ...tooMany('disks', Math.max(wire.disks.length, wire.spec.disks.length), LAUNCH_LIMITS.disks),
    ...tooMany('nics', wire.spec.nics.length, LAUNCH_LIMITS.nics),
  ]);
  for (const message of [wire, ...wire.disks]) refuseUnknownFields(message);
  const spec = parseDomainSpec(wire.spec);
  const data = {
    cpuModel: wire.cpuModel,
    cpuFeatures: { ...wire.cpuFeatures },
    cpuProperties: { ...wire.cpuProperties },
    pciSlots: { ...wire.pciSlots },
    kernelSha256: wire.kernelSha256,
    qemuVersion: wire.qemuVersion,
    disks: wire.disks.map((disk) => ({
      diskId: disk.diskId,
      sizeBytes: disk.sizeBytes,
      allocatedBytes: disk.allocatedBytes,
      mirrored: disk.mirrored,
      imageSha256: disk.imageSha256,
    })),
  };
  refuse(checkLaunchData(data));
  return { spec, ...data };
}

function refuse(violations: readonly Violation[]): void {
  if (violations.length === 0) return;
  const told = violations.map(({ message }) => message).join('; ');
  throw new RpcError('REQUEST_INVALID', `The launch spec is wrong: ${told}.`, { violations });
}

/** A map with every value changed. */
export function mapValues<From, To>(
  map: Readonly<Record<string, From>>,
  change: (value: From) => To,
): Record<string, To> {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [key, change(value)]));
}

// What a newer source asks for and this version would leave out might be what the guest cannot do
// without.
function refuseUnknownFields(message: {
  readonly _unknownFields?: Readonly<Record<number, unknown>> | undefined;
}): void {
  const tags = Object.keys(message._unknownFields ?? {});
  if (tags.length === 0) return;
  const fields = tags
    .slice(0, UNKNOWN_LIMIT)
    .map((tag) => Number(tag) >>> 3)
    .join(', ');
  throw new RpcError(
    'VERSION_SKEW',
    `The launch spec has fields that this version does not know: ${fields}.`,
  );
}

import type { DiskServerAddress, LaunchSpec } from '../domain/launch-spec.js';
import type { DomainSpec as WireDomainSpec } from '../gen/drover/v1/domain.js';
import type { LaunchSpec as WireLaunchSpec } from '../gen/drover/v1/launch_spec.js';
import type { ExportDisksResponse } from '../gen/drover/v1/peer_service.js';
import { type DomainSpec, parseDomainSpec } from '../spec/domain-spec.js';
import { RpcError } from './errors.js';
import { uint32, uint64 } from './whole-number.js';

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
 * The spec in it is checked as strictly as one from an operator: a peer is not trusted either.
 *
 * @throws ReasonedError `SPEC_INVALID` with all violations; `VERSION_SKEW` for fields that this
 *   version does not know
 */
export function launchSpecFromWire(launchSpec: WireLaunchSpec | undefined): LaunchSpec {
  if (!launchSpec?.spec) throw new RpcError('REQUEST_INVALID', 'There is no launch spec.');
  for (const message of [launchSpec, ...launchSpec.disks]) refuseUnknownFields(message);
  return {
    spec: parseDomainSpec(launchSpec.spec),
    cpuModel: launchSpec.cpuModel,
    cpuFeatures: { ...launchSpec.cpuFeatures },
    cpuProperties: { ...launchSpec.cpuProperties },
    pciSlots: { ...launchSpec.pciSlots },
    kernelSha256: launchSpec.kernelSha256,
    qemuVersion: launchSpec.qemuVersion,
    disks: launchSpec.disks.map((disk) => ({
      diskId: disk.diskId,
      sizeBytes: disk.sizeBytes,
      allocatedBytes: disk.allocatedBytes,
      mirrored: disk.mirrored,
      imageSha256: disk.imageSha256,
    })),
  };
}

/** Where the disks are to be mirrored to. */
export function diskServerToWire(server: DiskServerAddress): ExportDisksResponse {
  return {
    address: server.address,
    port: uint32(server.port),
    pskIdentity: server.pskIdentity,
    psk: Buffer.from(server.psk),
    exports: server.exports.map(({ diskId, exportName }) => ({ diskId, exportName })),
  };
}

/** The other way. */
export function diskServerFromWire(server: ExportDisksResponse): DiskServerAddress {
  return {
    address: server.address,
    port: server.port,
    pskIdentity: server.pskIdentity,
    psk: server.psk,
    exports: server.exports.map(({ diskId, exportName }) => ({ diskId, exportName })),
  };
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
  const fields = tags.map((tag) => Number(tag) >>> 3).join(', ');
  throw new RpcError(
    'VERSION_SKEW',
    `The launch spec has fields that this version does not know: ${fields}.`,
  );
}

import type { Transport } from '../channel/types.js';
import type { DomainSpec } from '../spec/domain-spec.js';

/** Everything the destination needs to start the twin of a running QEMU. Data only, no path. */
export interface LaunchSpec {
  /** The spec as fixed at creation: nothing in it is open any more. */
  readonly spec: DomainSpec;
  /** The CPU model that `cpuFeatures` belong to. */
  readonly cpuModel: string;
  /** Features said explicitly, by QEMU's names. */
  readonly cpuFeatures: Readonly<Record<string, boolean>>;
  /** What else the CPU says of itself, by QEMU's names: vendor, family, model, stepping, levels. */
  readonly cpuProperties: Readonly<Record<string, string>>;
  /** Slots on the machine's first PCI bus by device id. */
  readonly pciSlots: Readonly<Record<string, number>>;
  /** SHA-256 of kernel and initial RAM disk in hex, joined by `+`; empty without a kernel. */
  readonly kernelSha256: string;
  /** The version of the QEMU that runs the domain, for example `10.0.2`. */
  readonly qemuVersion: string;
  /** The disks as the running QEMU reports them, in the order of the spec. */
  readonly disks: readonly LaunchDisk[];
}

/** One disk as the running QEMU reports it. */
export interface LaunchDisk {
  readonly diskId: string;
  /** The exact guest-visible size. */
  readonly sizeBytes: number;
  /** Storage that the image takes on the source now. */
  readonly allocatedBytes: number;
  /** True for writable disks that are not shared. */
  readonly mirrored: boolean;
  /** SHA-256 of a read-only disk's image in hex; empty for others. */
  readonly imageSha256: string;
}

/** Where bytes for the destination are to be brought to, and what opens it. */
export interface DataPlace {
  readonly transport: Transport;
  /** The destination. */
  readonly host: string;
  /** Of QEMU itself, or of the destination's data door. */
  readonly address: string;
  readonly port: number;
  /** Empty for a stream. */
  readonly pskIdentity: string;
  /** 32 random bytes; none for a stream. Never logged, never kept beyond the migration. */
  readonly psk: Uint8Array;
}

/** Where the destination's NBD server is reached. */
export interface DiskServerAddress extends DataPlace {
  readonly exports: readonly DiskExport[];
}

/** One NBD export. */
export interface DiskExport {
  readonly diskId: string;
  readonly exportName: string;
  /** Opens the data door, once; empty where the transport is direct. */
  readonly ticket: string;
}

/** Where the RAM is expected. */
export interface RamServerAddress extends DataPlace {
  /** The first line of the one connection that is expected there. */
  readonly ticket: string;
}

import type { ByteStream } from '../channel/types.js';
import type { DomainSpec } from '../spec/domain-spec.js';
import type { DomainError } from './errors.js';

/*
 * The seam between the flow of a migration and a hypervisor. Everything above this layer speaks of
 * disks, mirrors and RAM; how QEMU is told is known only below it.
 */

/** Ends a wait. Every wait of this layer ends with the signal's reason when it fires. */
export interface WaitOptions {
  readonly signal: AbortSignal;
}

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

/** Where the destination's NBD server listens, and the key of this migration that opens it. */
export interface DiskServerAddress {
  readonly address: string;
  readonly port: number;
  readonly pskIdentity: string;
  /** 32 random bytes. Never logged, never kept beyond the migration. */
  readonly psk: Uint8Array;
  readonly exports: readonly DiskExport[];
}

/** One NBD export. */
export interface DiskExport {
  readonly diskId: string;
  readonly exportName: string;
}

/** Opens the way for the RAM bytes to the destination, once. */
export interface RamChannel {
  open(options: WaitOptions): Promise<ByteStream>;
}

/** How far one mirror has come; bytes as in `DiskProgress` of the wire. */
export interface MirrorProgress {
  readonly diskId: string;
  readonly totalBytes: number;
  readonly transferredBytes: number;
  readonly remainingBytes: number;
  readonly ready: boolean;
}

/** QEMU's figures of the RAM stream. */
export interface RamProgress {
  readonly totalBytes: number;
  readonly transferredBytes: number;
  readonly remainingBytes: number;
  readonly bytesPerSecond: number;
  readonly dirtyBytesPerSecond: number;
  readonly pass: number;
  readonly expectedDowntimeMs: number;
  /** QEMU's own downtime, once the stream has completed. */
  readonly downtimeMs: number | undefined;
}

/** The settings of a migration that reach the hypervisor. */
export interface MigrationLimits {
  /** The downtime that QEMU may plan for, in milliseconds. */
  readonly downtimeLimitMs: number;
  /** Bytes per second for all mirrors together, and for RAM; 0 is unlimited. */
  readonly maxBandwidth: number;
}

/** A domain whose guest runs (or is paused by its user) on this host. */
export interface Domain {
  readonly uuid: string;
  readonly name: string;
  /** Grows with every completed migration, from 1. */
  readonly generation: number;
  /**
   * Describes the running QEMU, by asking it.
   *
   * @throws DomainError `QEMU_BLOCKER` where QEMU refuses to migrate, `QEMU_DEVICE_UNKNOWN` for a
   * device that is not of the spec.
   */
  launchSpec(options: WaitOptions): Promise<LaunchSpec>;
  /**
   * Starts, or finds running, one mirror for each export. Disposing cancels them and leaves
   * nothing.
   */
  mirror(
    disks: readonly LaunchDisk[],
    server: DiskServerAddress,
    limits: MigrationLimits,
    options: WaitOptions,
  ): Promise<Mirrors>;
  /** Starts to send RAM. Disposing before `release` cancels and lets the guest run here again. */
  sendRam(channel: RamChannel, limits: MigrationLimits, options: WaitOptions): Promise<RamSend>;
  /** Ends QEMU and turns the images into the tombstone. Repeating it is harmless. */
  retire(ownerHost: string): Promise<void>;
}

/** The mirrors of all disks of one migration. */
export interface Mirrors extends AsyncDisposable {
  /**
   * Resolves when every mirror is ready.
   *
   * @throws DomainError `MIRROR_FAILED` when one ends before.
   */
  ready(options: WaitOptions): Promise<void>;
  /** Makes every mirror write-blocking and resolves when all are active. */
  activate(options: WaitOptions): Promise<void>;
  /** With the guest paused: ends every mirror with source and destination equal. */
  settle(options: WaitOptions): Promise<void>;
  /** Removes the mirrors' block nodes from QEMU. */
  detach(): Promise<void>;
  progress(): Promise<readonly MirrorProgress[]>;
}

/** RAM on its way to the destination. */
export interface RamSend extends AsyncDisposable {
  /** Resolves when QEMU has paused the guest and waits before the last pass. */
  preSwitchover(options: WaitOptions): Promise<RamPause>;
  /** Sends the last pass and the device state; resolves when QEMU has completed. */
  finish(options: WaitOptions): Promise<void>;
  /** After the handover: disposing no longer brings the guest back here. */
  release(): void;
  progress(): Promise<RamProgress>;
}

/** The moment at which the guest was paused. */
export interface RamPause {
  /**
   * Microseconds of `systemClock.nowUs()`: the time of QEMU's STOP event, brought to that clock
   * when the event arrived.
   */
  readonly stoppedAtUs: number;
  /**
   * True when its user had paused it: it must arrive paused. Travels to the destination with the
   * commit.
   */
  readonly guestPaused: boolean;
}

/** What `startIncoming` needs to know of the migration. */
export interface IncomingRequest {
  readonly launchSpec: LaunchSpec;
  readonly migrationId: string;
  /** Counts the incoming QEMUs of the migration, from 1. */
  readonly attempt: number;
  /** The generation that the domain gets here. */
  readonly generation: number;
  readonly sourceHost: string;
}

/** A domain on its way in: images and a QEMU started with `-S -incoming defer`. */
export interface IncomingDomain extends AsyncDisposable {
  /**
   * Opens the NBD server with one writable export for each mirrored disk. Repeating it answers the
   * same.
   */
  exportDisks(options: WaitOptions): Promise<DiskServerAddress>;
  /** Runs `migrate-incoming`; the answer takes the bytes of the RAM stream. */
  acceptRam(options: WaitOptions): Promise<RamReceive>;
  /**
   * Resolves when the guest is loaded and paused and the NBD server is closed.
   *
   * @throws DomainError `DEST_QEMU_DIED` or `VMSTATE_INCOMPATIBLE`
   */
  loaded(options: WaitOptions): Promise<LoadedGuest>;
  /** Writes durably that the domain is this host's from now on, before it may run. */
  own(): Promise<void>;
  /**
   * Ends QEMU and takes `own` back, durably; for a guest that never ran here. Does nothing before
   * `own`.
   *
   * @throws DomainError `DISK_IO_ERROR`: then the domain may still be this host's after a restart
   */
  disown(): Promise<void>;
  /**
   * Lets the guest run and announces it to the network; one that its user had paused stays paused.
   */
  resume(guest: { readonly paused: boolean }, options: WaitOptions): Promise<void>;
  /** After `own`: disposing no longer removes anything; the domain joins the host's domains. */
  release(): void;
  /** True while QEMU is there. */
  readonly alive: boolean;
  /** False as long as it is certain that no vCPU of the guest has run here. */
  readonly mayHaveRun: boolean;
  /**
   * Resolves with `DEST_QEMU_DIED`, exit code and end of log, when QEMU ends unasked. Never
   * rejects.
   */
  readonly died: Promise<DomainError>;
}

/** The end of the RAM stream at the incoming QEMU. */
export interface RamReceive {
  /** Connects the stream to QEMU; resolves when both directions have ended. */
  receive(stream: ByteStream, options: WaitOptions): Promise<void>;
}

/** What the destination votes with. */
export interface LoadedGuest {
  /** Storage that each new image takes, by disk id. */
  readonly allocatedBytes: Readonly<Record<string, number>>;
}

/** What the flow needs of a host's domains. */
export interface MigratableDomains {
  /**
   * Takes a running domain for a migration; stop, delete and a second claim are refused meanwhile.
   *
   * @throws DomainError `DOMAIN_NOT_FOUND`; `DOMAIN_NOT_RUNNING`, with `owner_host` if known;
   *   `ALREADY_MIGRATING`
   */
  claim(nameOrUuid: string, migrationId: string): Domain;
  /** Gives it back. */
  unclaim(uuid: string, migrationId: string): void;
  /** Writes durably who may run the domain (see migration/handover.ts). */
  recordHandover(uuid: string, record: string, migrationId: string, peer: string): Promise<void>;
  /** Checks, reserves and creates everything the launch spec asks for, then starts QEMU. */
  startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain>;
}

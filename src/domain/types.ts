import type { ByteStream } from '../channel/types.js';
import type { Copy, Doubt } from './doubt.js';
import type { DomainError } from './errors.js';
import type { Written } from './images.js';
import type { DiskServerAddress, LaunchDisk, LaunchSpec } from './launch-spec.js';

export type { Copy, Doubt } from './doubt.js';

/*
 * The seam between the flow of a migration and a hypervisor. How QEMU is told is known only below.
 */

/** Ends a wait. Every wait of this layer ends with the signal's reason when it fires. */
export interface WaitOptions {
  readonly signal: AbortSignal;
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
  /** Grows with every word of a person about who owns the domain, from 1. */
  readonly epoch: number;
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
  /**
   * After `finish`: reads again what giving the guest up depends on; nothing in it is remembered
   * from before, except that no RESUME has been seen.
   */
  guard(options: WaitOptions): Promise<SourceGuard>;
  /** After the handover: disposing no longer brings the guest back here. */
  release(): void;
  progress(): Promise<RamProgress>;
}

/** What must hold before the source gives the guest up. */
export interface SourceGuard {
  /** QEMU's migration has completed, and its guest can never resume by itself. */
  readonly fenced: boolean;
  /** Every mirror has ended without error after the guest's last stop; QEMU has none left. */
  readonly settled: boolean;
}

/** What the QEMU of a domain that was leaving does, as it says itself. */
export interface OutgoingState {
  /**
   * `running`: no migration holds the guest (its user may have paused it); `switching`: a migration
   * holds it stopped and has not ended; `completed`: it waits in `postmigrate`; `gone`: no QEMU.
   */
  readonly qemu: 'running' | 'switching' | 'completed' | 'gone';
  /** True where every mirror of its disks still goes on, or is ready. */
  readonly mirrored: boolean;
}

/** A domain that was leaving when an earlier life of the agent ended. */
export interface OutgoingDomain {
  readonly name: string;
  /** For the flow to be run again; undefined where its QEMU has gone or does not answer. */
  readonly domain: Domain | undefined;
  /**
   * @throws DomainError `QEMU_ERROR`, `STALLED` for a QEMU that does not answer; it may be repeated
   */
  observe(options: WaitOptions): Promise<OutgoingState>;
  /**
   * Ends what is left of the migration in QEMU - RAM, mirrors, nodes, key - and lets a guest that
   * it stopped run here again; `paused`: it stays paused. Leaves alone a guest that its user paused
   * since. Never throws; what does not work is reported.
   */
  bringBack(guest: { readonly paused: boolean }): Promise<void>;
  /** As in Domain, also where QEMU has gone. */
  retire(ownerHost: string): Promise<void>;
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
  readonly epoch: number;
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
  /**
   * Prepares QEMU for its RAM; the answer takes the bytes of the stream. Repeating it answers the
   * same. A higher `attempt` (default: the one that goes on, from 1) is for RAM that is sent once
   * more after a switchover that ended before the mirrors had settled: a further QEMU on the same
   * images takes it, and `loaded` is that one's from then on. What took the RAM before is of no
   * use.
   *
   * @throws DomainError `RAM_FAILED` where there can be no further attempt: after `loaded`, for a
   * domain with a tap, for one of an earlier life of the agent; `NO_MEMORY`
   */
  acceptRam(options: WaitOptions & { readonly attempt?: number }): Promise<RamReceive>;
  /**
   * Resolves when the guest is loaded and paused and the NBD server is closed.
   *
   * @throws DomainError `DEST_QEMU_DIED` or `VMSTATE_INCOMPATIBLE`
   */
  loaded(options: WaitOptions): Promise<LoadedGuest>;
  /**
   * What its QEMU does, as it says itself. For one that an earlier life of the agent has made.
   * `waiting`: no RAM has come; `loaded`: the guest is whole and paused; `gone` also where the
   * stream broke, so that it is of no use.
   *
   * @throws DomainError `QEMU_ERROR` for a QEMU that lives and does not answer; it may be repeated,
   * or ended with `kill` where it certainly does not run the guest
   */
  observe(options: WaitOptions): Promise<'waiting' | 'loaded' | 'running' | 'gone'>;
  /**
   * Lets the guest run and announces it to the network; one that its user had paused stays paused.
   * Only for a guest that is this host's in writing.
   */
  resume(guest: { readonly paused: boolean }, options: WaitOptions): Promise<void>;
  /** Ends QEMU at once and resolves when it is gone; everything else stays. */
  kill(): Promise<void>;
  /**
   * The domain has come to stay: it joins the host's domains at once, stopped where its QEMU has
   * gone, and disposing no longer removes anything. Resolves when that is on disk; may be repeated
   * when it rejects.
   *
   * @throws DomainError `DISK_IO_ERROR`
   */
  arrive(): Promise<void>;
  /** How its images stand; missing where nobody knows. */
  written?(): Promise<Written>;
  /** True while QEMU is there. */
  readonly alive: boolean;
  /** False as long as it is certain that no vCPU of the guest has run here. */
  readonly mayHaveRun: boolean;
  /** `DEST_QEMU_DIED` with exit code and end of log, when QEMU ends unasked. Never rejects. */
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
  /**
   * Says why nobody may start, stop, delete or move a domain, or that all is clear again. A domain
   * that is in doubt and does not run is shown as IN_DOUBT. Each migration speaks for itself.
   */
  doubt(uuid: string, doubt: Doubt | undefined, migrationId?: string): void;
  /** Raises the epoch of a domain durably, by a person's word. */
  raiseEpoch(uuid: string, epoch: number): Promise<void>;
  /**
   * Stops the guest of a domain at once if that copy of it, or an older one, runs here; the images
   * stay as they are.
   */
  standDown(uuid: string, copy: Copy): Promise<void>;
  /**
   * Claims a domain that was leaving when an earlier life of the agent ended, whatever doubt there
   * is; undefined where it is not this host's any more.
   */
  recoverOutgoing(uuid: string, migrationId: string): OutgoingDomain | undefined;
  /**
   * Finds a domain that was on its way in when an earlier life of the agent ended, with what was
   * made for it. Disposing removes it. One that this migration has brought already is found, too,
   * as long as it lives here, and disposing leaves it alone. Undefined where neither is so.
   */
  recoverIncoming(
    uuid: string,
    migrationId: string,
    options: WaitOptions,
  ): Promise<IncomingDomain | undefined>;
  /** Removes what was on its way in and was not recovered. Called once, when all has been. */
  sweep(options: WaitOptions): Promise<void>;
  /**
   * Refuses a domain that is on this host or on its way to it already, before anything is written
   * of its coming: what is written of it here must stay as it is.
   *
   * @throws DomainError `DOMAIN_EXISTS`, `ALREADY_MIGRATING`
   */
  assertMayArrive(request: IncomingRequest): void;
  /** Checks, reserves and creates everything the launch spec asks for, then starts QEMU. */
  startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain>;
}

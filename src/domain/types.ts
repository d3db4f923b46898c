import type { Copy, Doubt } from './doubt.js';
import type { DataProbe, IncomingDomain, IncomingRequest } from './incoming-types.js';
import type { DiskServerAddress, LaunchDisk, LaunchSpec, RamServerAddress } from './launch-spec.js';

export type { Copy, Doubt } from './doubt.js';
export type {
  DataProbe,
  IncomingDomain,
  IncomingRequest,
  LoadedGuest,
} from './incoming-types.js';

/*
 * The seam between the flow of a migration and a hypervisor. How QEMU is told is known only below.
 */

/** Ends a wait. Every wait of this layer ends with the signal's reason when it fires. */
export interface WaitOptions {
  readonly signal: AbortSignal;
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
  /** Bytes per second for mirrors and RAM together; 0 is unlimited. */
  readonly maxBandwidth: number;
  /** The guest's own use of its disks comes before speed. Default: false. */
  readonly gentle?: boolean;
  /** Of the link, in milliseconds, where it was measured: buffers are sized by it. */
  readonly roundTripMs?: number;
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
   * nothing. `fresh`: nothing was ever written to the exports, so that they read as zeros.
   */
  mirror(
    disks: readonly LaunchDisk[],
    server: DiskServerAddress,
    limits: MigrationLimits,
    options: WaitOptions & { readonly fresh: boolean },
  ): Promise<Mirrors>;
  /**
   * Starts to send RAM, or finds it being sent to this very place. QEMU does not pause the guest
   * before `allowPause`. Disposing before `release` cancels and lets the guest run here again.
   */
  sendRam(
    server: RamServerAddress,
    limits: MigrationLimits,
    options: WaitOptions,
  ): Promise<RamSend>;
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
  /** Bytes per second for all of them together from now on; 0 is unlimited. */
  setSpeed(bytesPerSecond: number): Promise<void>;
  progress(): Promise<readonly MirrorProgress[]>;
}

/** RAM on its way to the destination. */
export interface RamSend extends AsyncDisposable {
  /** Resolves when all of it has been sent once, or the guest is paused already. */
  sentOnce(options: WaitOptions): Promise<void>;
  /** From now on QEMU may pause the guest, as soon as the rest is small enough. */
  allowPause(): Promise<void>;
  /** Bytes per second from now on; 0 is unlimited. */
  setBandwidth(bytesPerSecond: number): Promise<void>;
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
  /**
   * Opens a port of the data range for one connection, and at most for ten seconds, so that another
   * host can try whether it reaches the range.
   *
   * @throws DomainError `NO_PORT`
   */
  openProbe(options: WaitOptions): Promise<DataProbe>;
  /** Checks, reserves and creates everything the launch spec asks for, then starts QEMU. */
  startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain>;
}

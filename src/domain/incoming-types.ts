import type { Transport } from '../channel/types.js';
import type { DomainError } from './errors.js';
import type { Written } from './images.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from './launch-spec.js';
import type { WaitOptions } from './types.js';

/** What the destination opens, and until when. */
export interface TransportOptions extends WaitOptions {
  readonly transport: Transport;
}

/** One port of the data range, open for a moment. */
export interface DataProbe {
  readonly address: string;
  readonly port: number;
  /** What whoever connects gets to read. */
  readonly nonce: string;
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
  exportDisks(options: TransportOptions): Promise<DiskServerAddress>;
  /**
   * Prepares QEMU for its RAM and answers where that is to be brought to. Repeating it answers the
   * same. A higher `attempt` (default: the one that goes on, from 1) is for RAM that is sent once
   * more after a switchover that ended before the mirrors had settled: a further QEMU on the same
   * images takes it, and `loaded` is that one's from then on. What took the RAM before is of no
   * use.
   *
   * @throws DomainError `RAM_FAILED` where there can be no further attempt: after `loaded`, for a
   * domain with a tap, for one of an earlier life of the agent; `NO_MEMORY`
   */
  acceptRam(options: TransportOptions & { readonly attempt?: number }): Promise<RamServerAddress>;
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

/** What the destination votes with. */
export interface LoadedGuest {
  /** Storage that each new image takes, by disk id. */
  readonly allocatedBytes: Readonly<Record<string, number>>;
}

import type { Carrier } from '../channel/types.js';
import type { Binary } from '../process/binary.js';
import type { Launcher } from '../process/launcher.js';
import type { TapRequest } from '../process/tap.js';
import type { Transcript } from '../qmp/client.js';
import type { Log } from '../util/log.js';
import type { Pool } from './pools.js';

/** A kernel that domains may boot, by name. */
export interface Kernel {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  /** Absolute. */
  readonly initrdPath: string | undefined;
  /** The beginning of every command line. */
  readonly arguments: string;
}

/** Bytes of the host's memory. */
export interface MemoryFacts {
  readonly totalBytes: number;
  /** What could be used without swapping. */
  readonly availableBytes: number;
}

/** What is asked of the host's kernel. Tests bring their own. */
export interface HostSystem {
  memory(): Promise<MemoryFacts>;
  /** Memory that a process holds now; 0 for one that is gone. */
  residentBytes(pid: number): Promise<number>;
  cpus(): number;
  /** True where KVM can be opened. That it works is not proved by that. */
  kvmUsable(): Promise<boolean>;
  bridgeExists(name: string): Promise<boolean>;
  createTap(tap: TapRequest, options: { readonly signal?: AbortSignal }): Promise<void>;
  /** Does nothing where there is none. */
  deleteTap(name: string): Promise<void>;
}

/** What network interfaces of domains may be connected to. */
export interface Networks {
  /** Names of bridges, for interfaces of type tap. */
  readonly bridges: readonly string[];
  /**
   * Whether there are interfaces of type user: QEMU's own address translation, through which a
   * guest reaches what this host reaches, its loopback included.
   */
  readonly user: boolean;
}

/** Everything that the domains of a host are made with. */
export interface HostSettings {
  /** The host's name, as in its certificate. */
  readonly host: string;
  readonly directories: {
    /** Kept over restarts of the host. Absolute. */
    readonly state: string;
    /** Sockets and logs of running QEMUs. Absolute and short. */
    readonly run: string;
  };
  /** Where QEMUs listen: this host's address, and the first and last port. */
  readonly data: { readonly address: string; readonly ports: readonly [number, number] };
  /** Carries what travels as a stream. */
  readonly carrier: Carrier;
  readonly pools: readonly Pool[];
  readonly kernels: readonly Kernel[];
  readonly networks: Networks;
  readonly binary: Binary;
  readonly launcher: Launcher;
  readonly system: HostSystem;
  readonly log: Log;
  /**
   * The users that QEMUs run as, one for each domain; only root can have that. Default: all run as
   * the agent does.
   */
  readonly qemuUids?: { readonly first: number; readonly last: number } | undefined;
  /** Hears all that is said to QEMUs, by the domain's UUID. */
  readonly transcript?: (uuid: string) => Transcript;
  /** Told when a domain's state may have changed. Must not throw. */
  readonly onChange?: (uuid: string) => void;
}

import type { GuestPlan } from '../stage/guest-plan.js';
import type { GuestRecord } from '../stage/guest-record.js';
import type { HostName } from '../stage/network.js';

/** All that move guests, in the order in which they take turns. */
export const MOVER_NAMES = [
  'floor',
  'direct',
  'libvirt',
  'stream',
  'floor-tls',
  'libvirt-tls',
  'floor-unix',
  'libvirt-sync',
  'naive',
] as const;
export type MoverName = (typeof MOVER_NAMES)[number];

/** What each of them is, for people. */
export const MOVER_TITLES: Readonly<Record<MoverName, string>> = {
  floor: 'QEMU by hand, best options',
  'floor-tls': 'QEMU by hand, best options, TLS',
  'floor-unix': 'QEMU by hand, unix sockets',
  naive: 'QEMU by hand, defaults',
  libvirt: 'libvirt',
  'libvirt-tls': 'libvirt --tls',
  'libvirt-sync': 'libvirt --parallel, synchronous writes',
  direct: 'Drover direct',
  stream: 'Drover stream',
};

/** How a move is asked for. */
export interface MoveOptions {
  /** The guest's own use of its disks before speed, where a mover knows how. */
  readonly gentle?: boolean;
}

/** One guest in a mover's care. It runs on one of the hosts. */
export interface MovedGuest extends AsyncDisposable {
  readonly host: HostName;
  readonly record: GuestRecord;
  readonly qemuPid: number;
  /** The images it has on the host it runs on. */
  readonly imagePaths: readonly string[];
  /** Lets it stand still, so that it leaves the machine to another one, or go on. */
  pause(paused: boolean): Promise<void>;
  /**
   * Moves it to the other host. Answers when the mover said that it is done, in milliseconds of
   * `performance.now()`; what has to be cleaned up after that is not counted.
   */
  move(options?: MoveOptions): Promise<number>;
  /** Ends it, its images closed and left where they are. */
  stop(): Promise<void>;
}

/** One way to move guests. */
export interface Mover {
  readonly name: MoverName;
  /** Starts a guest on the first host; resolves when it works. */
  start(plan: GuestPlan, name: string): Promise<MovedGuest>;
  /** The processes of the mover itself on each host; none where there is nobody but QEMU. */
  servicePids(host: HostName): readonly number[];
}

import type { Transport } from '../channel/types.js';
import type { MirrorProgress, RamProgress } from '../domain/types.js';
import type { Downtime } from './downtime.js';
import type { Failure } from './errors.js';
import type { Phase } from './phase.js';
import type { TransportWish } from './transport.js';

/** The life cycle of a migration. */
export type MigrationState =
  | 'PENDING'
  | 'RUNNING'
  | 'SUCCEEDED'
  | 'FAILED'
  | 'CANCELLED'
  | 'IN_DOUBT';

/** Where the guest may run. */
export type RunningOn = 'SOURCE' | 'DESTINATION' | 'NOWHERE' | 'UNKNOWN';

/** A disk's progress with its rate over the last second. */
export interface DiskProgress extends MirrorProgress {
  readonly bytesPerSecond: number;
}

/** When a phase began and ended. */
export interface PhaseTime {
  readonly phase: Phase;
  readonly startTime: Date;
  readonly endTime: Date | undefined;
}

/** One moment of one migration: what every watcher gets. */
export interface Migration {
  readonly migrationId: string;
  readonly domainUuid: string;
  readonly domainName: string;
  readonly sourceHost: string;
  readonly destinationHost: string;
  readonly state: MigrationState;
  readonly phase: Phase | undefined;
  readonly runningOn: RunningOn;
  readonly cancellable: boolean;
  /** Grows with every change, from 1. */
  readonly revision: number;
  readonly createTime: Date;
  readonly endTime: Date | undefined;
  readonly phaseTimes: readonly PhaseTime[];
  readonly disks: readonly DiskProgress[];
  readonly ram: RamProgress | undefined;
  readonly summary: Summary | undefined;
  readonly failure: Failure | undefined;
  /** How disks and RAM travel; undefined until that is chosen, and at the destination. */
  readonly transport: Transport | undefined;
  /** Why so, in words. */
  readonly transportReason: string;
}

/** The figures of a migration that has ended well. */
export interface Summary {
  readonly totalTimeMs: number;
  readonly downtime: Downtime;
  readonly qemuDowntimeMs: number;
  readonly transferredBytes: number;
  readonly ramPasses: number;
  readonly disks: readonly DiskSummary[];
}

/** Storage figures of one mirrored disk. */
export interface DiskSummary {
  readonly diskId: string;
  readonly sizeBytes: number;
  readonly transferredBytes: number;
  readonly sourceAllocatedBytes: number;
  readonly destinationAllocatedBytes: number;
}

/** A request to move a domain. */
export interface MigrationRequest {
  /** Name or UUID. */
  readonly domain: string;
  readonly destinationHost: string;
  /** A UUID; empty lets the agent choose one. */
  readonly migrationId: string;
  /** Milliseconds, 1 to 60000; 0 means 300. */
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is unlimited. */
  readonly maxBandwidth: number;
  readonly transport: TransportWish;
  /** The guest's own use of its disks comes before speed. */
  readonly gentle: boolean;
  /** Beside other migrations, 1 to 100; 0 means 10. */
  readonly weight: number;
}

/** What callers may ask of an agent's migrations. */
export interface MigrationManager {
  /** Accepts a migration and begins it; resolves at once. */
  start(request: MigrationRequest): Promise<Migration>;
  get(migrationId: string): Migration;
  /** Newest first; empty means of all domains. */
  list(domain: string): readonly Migration[];
  /** The migration now and after every change; ends after the terminal one. Slow readers skip. */
  watch(migrationId: string, options: { readonly signal: AbortSignal }): AsyncIterable<Migration>;
  /** Asks it to stop; `caller` is named in the failure. */
  cancel(migrationId: string, caller: string): Migration;
}

/** True for states that never change again. */
export function isTerminal(state: MigrationState): boolean {
  return state === 'SUCCEEDED' || state === 'FAILED' || state === 'CANCELLED';
}

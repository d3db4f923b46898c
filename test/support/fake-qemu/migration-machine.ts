import type { Socket } from 'node:net';
import type { MigrationCapability, MigrationStatus, RunState } from '../../../src/qmp/types.gen.js';
import type { GuestState } from './guest.js';
import type { PskCredentials } from './nbd-client.js';

/** What a migration, on either side, needs of the QEMU that it is part of. */
export interface MigrationMachine {
  readonly uuid: string;
  readonly options: GuestOptions;
  readonly runState: RunState;
  capability(name: MigrationCapability): boolean;
  parameter(name: string): number;
  guestState(): GuestState;
  loadGuest(state: GuestState): void;
  /** Stops the guest if it runs; STOP is sent only then. */
  stopGuest(state: RunState): Promise<void>;
  startGuest(): Promise<void>;
  setRunState(state: RunState): void;
  emit(event: string, data: Readonly<Record<string, unknown>>): Promise<void>;
  /**
   * Ends the process, as QEMU does when an incoming migration fails and nothing else was asked for.
   */
  exit(code: number): void;
}

/** What kind of guest a fake QEMU runs. */
export interface GuestOptions {
  /** Bytes that the first pass sends. */
  readonly ramBytes: number;
  /** How many passes before the switchover; at least 1. */
  readonly passes: number;
  /** True if the guest only runs and writes nothing. */
  readonly idle: boolean;
}

/** What the last frame of the stream carries. */
export interface DeviceState {
  /** What the guest did when the migration began: it is to do so again. */
  readonly runState: RunState;
  readonly guest: GuestState;
  /** SHA-256 over all RAM bytes, so that a relay that changes one is found out. */
  readonly ramSha256: string;
}

/** Statuses in which a migration is over. */
export function isTerminal(status: MigrationStatus): boolean {
  return (
    status === 'completed' || status === 'failed' || status === 'cancelled' || status === 'none'
  );
}

/** Where a migration comes from or goes to. */
export type Place =
  | { readonly path: string }
  /** Handed over by the agent. */
  | { readonly socket: Socket };

/** What a QEMU shows, or wants to see, before it lets RAM through; undefined where that is nothing. */
export interface RamKeys {
  readonly client?: PskCredentials;
  /** By identity. */
  readonly server?: ReadonlyMap<string, string>;
}

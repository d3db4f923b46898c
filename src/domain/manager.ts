import type { DomainSpec } from '../spec/domain-spec.js';
import type { Doubt, MigratableDomains, WaitOptions } from './types.js';

/** What a domain is doing on this host. */
export type DomainState = 'STOPPED' | 'RUNNING' | 'PAUSED' | 'INCOMING' | 'MOVED' | 'IN_DOUBT';

/** A domain as shown to callers. */
export interface DomainInfo {
  readonly spec: DomainSpec;
  readonly state: DomainState;
  readonly ownerHost: string;
  readonly epoch: number;
  readonly generation: number;
  /** 0 when there is no QEMU. */
  readonly qemuPid: number;
  /** Where the serial console is on this host; empty when there is none. */
  readonly serialPath: string;
  /** The migration that has claimed the domain; empty when none has. */
  readonly migrationId: string;
  /** Storage that a tombstone takes here. */
  readonly tombstoneBytes: number;
  /**
   * Why nobody may start, stop, delete or move it here; undefined when nothing speaks against it.
   */
  readonly doubt: Doubt | undefined;
}

/** What callers may ask of a host's domains. References are names or UUIDs. */
export interface DomainManager extends MigratableDomains {
  /**
   * @throws DomainError `SPEC_INVALID` with all violations, `DOMAIN_EXISTS`, `DISK_NO_SPACE`, ...
   */
  create(spec: unknown, options: WaitOptions): Promise<DomainInfo>;
  start(
    reference: string,
    settings: { readonly paused: boolean },
    options: WaitOptions,
  ): Promise<DomainInfo>;
  stop(
    reference: string,
    settings: { readonly force: boolean; readonly timeLimitMs: number },
    options: WaitOptions,
  ): Promise<DomainInfo>;
  delete(reference: string, settings: { readonly tombstone: boolean }): Promise<void>;
  get(reference: string): Promise<DomainInfo>;
  list(): Promise<readonly DomainInfo[]>;
}

/** What the host has and may give. Bytes. */
export interface HostFacts {
  readonly name: string;
  readonly qemuVersion: string;
  /** Why this QEMU cannot be used; empty when it can. */
  readonly qemuProblem: string;
  readonly memoryBytes: number;
  readonly availableMemoryBytes: number;
  readonly cpus: number;
  readonly pools: readonly PoolFacts[];
  readonly kernels: readonly string[];
}

/** One storage pool. Bytes. */
export interface PoolFacts {
  readonly name: string;
  readonly shared: boolean;
  readonly sizeBytes: number;
  readonly availableBytes: number;
  readonly readsAsZeros: boolean;
}

import { formatVersion } from '../process/known-bad.js';
import type { DiskSpec } from '../spec/domain-spec.js';
import { formatSize } from '../util/bytes.js';
import { DomainError } from './errors.js';
import type { HostSettings, Kernel } from './host-settings.js';
import type { HostFacts, PoolFacts } from './manager.js';
import type { ImageLocation, Pool, Reservation } from './pools.js';
import { QemuUsers } from './qemu-users.js';
import type { WaitOptions } from './types.js';

/** A guest's memory that its QEMU has not taken yet, or not all of it. */
interface MemoryPromise {
  readonly sizeBytes: number;
  /** 0 before QEMU is started. */
  pid: number;
}

/** Memory that is promised to a guest. */
export interface MemoryReservation extends Reservation {
  /** From now on what this process holds counts towards it. */
  startedAs(pid: number): void;
}

/** What this host has, and what of it is promised. */
export class HostResources {
  readonly settings: HostSettings;
  readonly users: QemuUsers;
  readonly #pools: ReadonlyMap<string, Pool>;
  readonly #kernels: ReadonlyMap<string, Kernel>;
  readonly #memory = new Set<MemoryPromise>();
  /** Pools that have been found unusable; the log hears of each once. */
  readonly #unusable = new Set<string>();

  constructor(settings: HostSettings) {
    this.settings = settings;
    this.users = new QemuUsers(settings);
    this.#pools = new Map(settings.pools.map((pool) => [pool.name, pool]));
    this.#kernels = new Map(settings.kernels.map((kernel) => [kernel.name, kernel]));
  }

  /** @throws DomainError `DISK_TARGET_MISSING` */
  pool(name: string): Pool {
    const pool = this.#pools.get(name);
    if (pool) return pool;
    throw new DomainError('DISK_TARGET_MISSING', `${this.settings.host} has no pool ${name}.`, {
      facts: { pool: name },
    });
  }

  /** @throws DomainError `MEDIA_MISSING` */
  kernel(name: string): Kernel {
    const kernel = this.#kernels.get(name);
    if (kernel) return kernel;
    throw new DomainError('MEDIA_MISSING', `${this.settings.host} has no kernel ${name}.`, {
      facts: { kernel: name },
    });
  }

  get pools(): readonly Pool[] {
    return this.settings.pools;
  }

  /**
   * Where a disk's image is: a file of the catalogue for a read-only disk, else the domain's own.
   *
   * @throws DomainError `DISK_TARGET_MISSING`, `MEDIA_MISSING`
   */
  async locate(uuid: string, disk: DiskSpec, options: WaitOptions): Promise<ImageLocation> {
    const pool = this.pool(disk.pool);
    if (disk.readOnly) return pool.catalogueImage(disk.image, disk.format, options);
    return pool.locate(uuid, disk.id, disk.format);
  }

  /**
   * Promises memory to a guest until released.
   *
   * @throws DomainError `NO_MEMORY` with `required_bytes` and `available_bytes`
   */
  async reserveMemory(sizeBytes: number): Promise<MemoryReservation> {
    const { promise, reservation } = this.#promise(sizeBytes);
    const availableBytes = await this.availableMemoryBytes(promise);
    if (sizeBytes > availableBytes) {
      this.#memory.delete(promise);
      const { host } = this.settings;
      const [free, needed] = [formatSize(availableBytes), formatSize(sizeBytes)];
      throw new DomainError(
        'NO_MEMORY',
        `${host} has ${free} of free memory; ${needed} are needed.`,
        { facts: { required_bytes: sizeBytes, available_bytes: availableBytes } },
      );
    }
    return reservation;
  }

  /** The same for a guest that runs already, which nothing can refuse. */
  noteMemory(sizeBytes: number): MemoryReservation {
    return this.#promise(sizeBytes).reservation;
  }

  /** Free memory less what running guests have been promised and not yet touched. */
  async availableMemoryBytes(except?: MemoryPromise): Promise<number> {
    const { system } = this.settings;
    const open = [...this.#memory]
      .filter((promise) => promise !== except)
      .map(async ({ sizeBytes, pid }) =>
        Math.max(0, sizeBytes - (pid === 0 ? 0 : await system.residentBytes(pid))),
      );
    const promisedBytes = (await Promise.all(open)).reduce((sum, size) => sum + size, 0);
    return Math.max(0, (await system.memory()).availableBytes - promisedBytes);
  }

  /**
   * Storage that a domain's tombstones take.
   *
   * @throws DomainError `DISK_TARGET_MISSING` where a pool has gone
   */
  async tombstoneBytes(uuid: string): Promise<number> {
    return sum(await Promise.all(this.pools.map((pool) => pool.tombstoneBytes(uuid))));
  }

  /** The same to show it: a pool that cannot be used counts as one without. */
  async shownTombstoneBytes(uuid: string): Promise<number> {
    const sizes = this.pools.map((pool) =>
      pool.tombstoneBytes(uuid).catch((error: unknown) => this.#warn(pool, error, 0)),
    );
    return sum(await Promise.all(sizes));
  }

  /** A pool that cannot be used is shown without room. */
  async facts(): Promise<HostFacts> {
    const { host, binary, system, kernels } = this.settings;
    return {
      name: host,
      qemuVersion: binary.facts ? formatVersion(binary.facts.version) : '',
      qemuProblem: binary.problems[0]?.message ?? '',
      memoryBytes: (await system.memory()).totalBytes,
      availableMemoryBytes: await this.availableMemoryBytes(),
      cpus: system.cpus(),
      pools: await Promise.all(this.pools.map((pool) => this.#poolFacts(pool))),
      kernels: kernels.map(({ name }) => name),
    };
  }

  async #poolFacts(pool: Pool): Promise<PoolFacts> {
    const { name, shared, readsAsZeros } = pool;
    const none = { name, shared, sizeBytes: 0, availableBytes: 0, readsAsZeros };
    return await pool.facts().catch((error: unknown) => this.#warn(pool, error, none));
  }

  #warn<T>({ name }: Pool, error: unknown, instead: T): T {
    if (!this.#unusable.has(name)) {
      this.settings.log.warn({ err: error, pool: name }, 'a pool cannot be used');
    }
    this.#unusable.add(name);
    return instead;
  }

  #promise(sizeBytes: number): { promise: MemoryPromise; reservation: MemoryReservation } {
    const promise: MemoryPromise = { sizeBytes, pid: 0 };
    this.#memory.add(promise);
    const reservation = {
      release: () => void this.#memory.delete(promise),
      startedAs: (pid: number) => {
        promise.pid = pid;
      },
    };
    return { promise, reservation };
  }
}

function sum(sizes: readonly number[]): number {
  return sizes.reduce((total, size) => total + size, 0);
}

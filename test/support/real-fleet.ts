import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { type DiskSpec, DomainSpec } from '../../src/gen/drover/v1/domain.js';
import { createBootSectorImage, readDisk } from './blocks.js';
import { Fleet, type FleetOptions, type TestHost } from './fleet.js';
import { Ledger } from './ledger.js';
import { SerialLog, type SerialSegment } from './serial-log.js';

const MIB = 1024 ** 2;
const WAIT = { limitMs: 30_000 };

/** What a test says of a disk; the rest is the same for all. */
type Disk = Partial<Pick<DiskSpec, 'id' | 'bus' | 'format' | 'pool' | 'shared' | 'image'>>;

/** Agents with real QEMUs under TCG, and small guests that number what they write. */
export class RealFleet implements AsyncDisposable {
  readonly fleet: Fleet;
  readonly #guests: RealGuest[] = [];

  private constructor(fleet: Fleet) {
    this.fleet = fleet;
  }

  static async start(names: readonly string[], options: FleetOptions = {}): Promise<RealFleet> {
    const fleet = await Fleet.start(names, options);
    for (const { config } of names.map((name) => fleet.host(name))) {
      for (const pool of config.pools) {
        await createBootSectorImage(join(pool.path, 'images', 'boot.raw'), 8 * MIB);
      }
    }
    return new RealFleet(fleet);
  }

  host(name: string): TestHost {
    return this.fleet.host(name);
  }

  /** Starts a boot-sector guest with these disks; resolves when it writes. */
  async run(host: string, disks: readonly Disk[], changes: object = {}): Promise<RealGuest> {
    const spec = DomainSpec.fromPartial({
      name: 'web',
      memoryBytes: 32 * MIB,
      accelerator: 'tcg',
      serial: { type: 'file' },
      disks: disks.map((disk, i) => ({
        id: `disk${i}`,
        image: 'boot.raw',
        cache: 'writethrough',
        ...disk,
      })),
      ...changes,
    });
    const { client } = this.host(host);
    await client.domains.createDomain({ spec });
    const { domain } = await client.domains.startDomain({ domain: 'web' });
    const guest = new RealGuest(this, host, domain?.spec?.uuid ?? '');
    this.#guests.push(guest);
    guest.follow(host);
    if (disks.length > 0) await guest.writes(30);
    return guest;
  }

  /** Asserts that a host holds nothing of a domain: no QEMU, no definition, no image. */
  async expectNothingOn(host: string, uuid: string): Promise<void> {
    const { domains } = await this.host(host).client.domains.listDomains({});
    expect(domains.filter(({ spec }) => spec?.uuid === uuid)).toEqual([]);
    for (const { path, shared } of this.host(host).config.pools) {
      if (!shared) expect(await readdir(path)).not.toContain(uuid);
    }
    const run = await readdir(this.host(host).config.directories.run).catch(() => []);
    expect(run).not.toContain(uuid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const guest of this.#guests) guest[Symbol.dispose]();
    await this.fleet[Symbol.asyncDispose]();
  }
}

/** One guest, wherever it runs. */
export class RealGuest implements Disposable {
  readonly uuid: string;
  readonly #fleet: RealFleet;
  readonly #logs = new Map<string, SerialLog>();
  readonly #segments: SerialSegment[] = [];
  #host: string;

  constructor(fleet: RealFleet, host: string, uuid: string) {
    this.#fleet = fleet;
    this.#host = host;
    this.uuid = uuid;
  }

  /** Begins to read its console on a host. Its definition must be there. */
  follow(host: string): SerialLog {
    const state = this.#fleet.host(host).config.directories.state;
    const path = join(state, 'domains', this.uuid, 'serial.log');
    const log = this.#logs.get(host) ?? SerialLog.file(path, host);
    this.#logs.set(host, log);
    return log;
  }

  /** Resolves when it has had some more writes acknowledged where it is. */
  async writes(count: number): Promise<void> {
    await this.follow(this.#host).waitForWrites(count, WAIT);
  }

  /** To be called when it has moved. */
  arrived(host: string): void {
    if (host === this.#host) return;
    const ended = this.#logs.get(this.#host)?.cut();
    if (ended) this.#segments.push(ended);
    this.#host = host;
    this.follow(host);
  }

  async state(): Promise<string | undefined> {
    const { client } = this.#fleet.host(this.#host);
    const { domain } = await client.domains.getDomain({ domain: this.uuid });
    return domain?.state;
  }

  /** What it printed on all hosts until now. To be asked for once, when it has ended. */
  ledger(): Ledger {
    const last = this.#logs.get(this.#host)?.cut();
    return new Ledger(last ? [...this.#segments, last] : this.#segments);
  }

  /**
   * Ends it and asserts: no acknowledged write lost, none acknowledged twice, none skipped, none
   * torn.
   */
  async judge(): Promise<void> {
    const host = this.#fleet.host(this.#host);
    const { domain } = await host.client.domains.stopDomain({ domain: this.uuid, force: true });
    const ledger = this.ledger();
    expect(ledger.describeFaults()).toBe('');
    expect(ledger.ackedWrites).toBeGreaterThan(0);
    for (const { id, format, pool } of domain?.spec?.disks ?? []) {
      const folder = host.config.pools.find(({ name }) => name === pool)?.path ?? '';
      const content = await readDisk(join(folder, this.uuid, `${id}.${format}`), {
        guest: 'boot-sector',
        format: format === 'qcow2' ? 'qcow2' : 'raw',
        slots: 8192,
      });
      expect(ledger.lostWrites(content), id).toEqual([]);
      expect(content.tornSlots, id).toEqual([]);
    }
  }

  [Symbol.dispose](): void {
    for (const log of this.#logs.values()) log[Symbol.dispose]();
  }
}

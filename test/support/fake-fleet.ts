import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, vi } from 'vitest';
import type { HostSystem } from '../../src/domain/host-settings.js';
import type { FakeQemu } from './fake-qemu/qemu.js';
import { FakeImageTool, FakeLauncher, fakeBinary, judgeFakeGuest } from './fake-qemu.js';
import { Fleet, type FleetOptions, type TestHost } from './fleet.js';

/** A machine with room for everything and no network of its own. */
const roomyHost: HostSystem = {
  memory: async () => ({ totalBytes: 64 * 1024 ** 3, availableBytes: 32 * 1024 ** 3 }),
  residentBytes: async () => 0,
  cpus: () => 8,
  kvmUsable: async () => false,
  bridgeExists: async () => false,
  createTap: async () => undefined,
  deleteTap: async () => undefined,
};

/** How the hosts of a test are to be; what is not said is as on a roomy machine. */
interface FakeFleetOptions extends FleetOptions {
  readonly system?: (host: string) => Partial<HostSystem>;
}

/** Agents whose QEMUs are fakes inside this process. */
export class FakeFleet implements AsyncDisposable {
  readonly fleet: Fleet;
  readonly launchers: ReadonlyMap<string, FakeLauncher>;

  private constructor(fleet: Fleet, launchers: ReadonlyMap<string, FakeLauncher>) {
    this.fleet = fleet;
    this.launchers = launchers;
  }

  static async start(names: readonly string[], options: FakeFleetOptions = {}): Promise<FakeFleet> {
    const launchers = new Map(names.map((name) => [name, new FakeLauncher()]));
    const fleet = await Fleet.start(names, {
      ...options,
      parts: (host) => ({
        binary: fakeBinary(),
        launcher: launchers.get(host) ?? new FakeLauncher(),
        system: { ...roomyHost, ...options.system?.(host) },
        images: new FakeImageTool(),
        ...options.parts?.(host),
      }),
    });
    return new FakeFleet(fleet, launchers);
  }

  host(name: string): TestHost {
    return this.fleet.host(name);
  }

  launcher(name: string): FakeLauncher {
    const launcher = this.launchers.get(name);
    if (!launcher) throw new Error(`There is no host ${name} in this fleet.`);
    return launcher;
  }

  /** Makes a domain of two disks on different buses and starts it; `changes` go into its spec. */
  async run(host: string, name: string, changes: object = {}, paused = false): Promise<FakeQemu> {
    const { client } = this.host(host);
    await client.domains.createDomain({ spec: { ...specOf(name), ...changes } });
    await client.domains.startDomain({ domain: name, paused });
    const qemu = this.launcher(host).alive.at(-1);
    if (!qemu) throw new Error(`${name} has no QEMU on ${host}.`);
    return qemu;
  }

  /** Resolves when the guest has had `count` more writes acknowledged. */
  async writes(qemu: FakeQemu, count: number): Promise<void> {
    const enough = qemu.acknowledged.length + count;
    await vi.waitFor(() => expect(qemu.acknowledged.length).toBeGreaterThan(enough), {
      timeout: 10_000,
      interval: 5,
    });
  }

  /**
   * The verdict on a guest that ran under these QEMUs, one after the other: no number was
   * acknowledged twice, none is missing, and the images on `owner` hold every one of them.
   */
  async judge(name: string, owner: string, qemus: readonly FakeQemu[]): Promise<void> {
    const { domain } = await this.host(owner).client.domains.getDomain({ domain: name });
    const disks = domain?.spec?.disks.filter(({ readOnly }) => !readOnly) ?? [];
    const images = disks.map(({ id, pool, format }) => {
      const { path = '' } =
        this.host(owner).config.pools.find((known) => known.name === pool) ?? {};
      return join(path, domain?.spec?.uuid ?? '', `${id}.${format}`);
    });
    expect(judgeFakeGuest(qemus, images)).toEqual({ doubled: [], skipped: [], lost: [] });
  }

  /** Asserts that nothing of the domain is on a host: no QEMU, no definition, no image. */
  async expectNothingOn(host: string, uuid: string): Promise<void> {
    const running = this.launcher(host).alive.filter((qemu) => qemu.uuid === uuid);
    expect(running, `QEMUs on ${host}`).toEqual([]);
    const { domains } = await this.host(host).client.domains.listDomains({});
    expect(domains.filter(({ spec }) => spec?.uuid === uuid)).toEqual([]);
    // What is written would bring it back when the agent starts again.
    const definitions = join(this.host(host).config.directories.state, 'domains');
    expect(await readdir(definitions), `${definitions}`).not.toContain(uuid);
    for (const pool of this.host(host).config.pools.filter(({ shared }) => !shared)) {
      expect(await readdir(pool.path), `${pool.path}`).not.toContain(uuid);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fleet[Symbol.asyncDispose]();
    for (const launcher of this.launchers.values()) launcher.killAll();
  }
}

/** A small domain with two disks on different buses and in different formats. */
export function specOf(name: string) {
  return {
    name,
    memoryBytes: 64 * 1024 ** 2,
    accelerator: 'tcg',
    machine: 'q35',
    disks: [
      { id: 'root', sizeBytes: 1024 ** 2, bus: 'virtio-blk' },
      { id: 'data', sizeBytes: 1024 ** 2, bus: 'virtio-scsi', format: 'qcow2' },
    ],
    serial: { type: 'file' },
  };
}

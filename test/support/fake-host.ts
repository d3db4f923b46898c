import type { HostSystem } from '../../src/domain/host-settings.js';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { TapError } from '../../src/process/tap.js';
import type { GuestOptions } from './fake-qemu/migration-machine.js';
import { FakeImageTool, FakeLauncher, fakeBinary } from './fake-qemu.js';
import { HostStage, type HostStageParts } from './host-stage.js';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const { signal } = new AbortController();

/** A small domain with one disk. */
export const fakeSpec = {
  name: 'web1',
  memoryBytes: 64 * MIB,
  accelerator: 'tcg',
  disks: [{ id: 'root', sizeBytes: MIB }],
};

/** A host whose QEMUs are fakes, with a kernel of the test's own. */
export class FakeHost {
  readonly launcher: FakeLauncher;
  readonly taps = new Set<string>();
  freeBytes = 32 * GIB;
  readonly #parts: HostStageParts;
  stage!: HostStage;

  constructor(parts: HostStageParts = {}, guest: Partial<GuestOptions> = { idle: true }) {
    this.#parts = parts;
    this.launcher = new FakeLauncher(guest);
  }

  async open(): Promise<this> {
    const system: Partial<HostSystem> = {
      memory: async () => ({ totalBytes: 64 * GIB, availableBytes: this.freeBytes }),
      residentBytes: async () => 0,
      bridgeExists: async (name) => name === 'br0',
      createTap: async ({ name }) => {
        if (this.taps.size > 1) throw new TapError('NOT_PERMITTED', 'No more taps.');
        this.taps.add(name);
      },
      deleteTap: async (name) => void this.taps.delete(name),
    };
    this.stage = await HostStage.open({
      binary: fakeBinary(),
      launcher: this.launcher,
      images: new FakeImageTool(),
      system,
      ...this.#parts,
    });
    return this;
  }

  get domains() {
    return this.stage.domains;
  }

  get carrier() {
    return this.stage.carrier;
  }

  /** Creates and starts a domain and describes it as its migration would. */
  async launchSpec(changes: object = {}): Promise<LaunchSpec> {
    const { spec: fixed } = await this.domains.create({ ...fakeSpec, ...changes }, { signal });
    await this.domains.start(fixed.name, { paused: true }, { signal });
    return this.domains.claim(fixed.name, 'm1').launchSpec({ signal });
  }

  async close(): Promise<void> {
    await this.stage[Symbol.asyncDispose]();
    this.launcher.killAll();
  }
}

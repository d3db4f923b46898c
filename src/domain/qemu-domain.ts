import type { Carrier } from '../channel/types.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { Definition } from './definitions.js';
import { discoverLaunchSpec } from './discovery.js';
import { QemuFaults, type ReportProblem } from './faults.js';
import type { DiskServerAddress, LaunchDisk, LaunchSpec, RamServerAddress } from './launch-spec.js';
import { QemuMirrors } from './mirrors.js';
import { mirroredDisks } from './outgoing-state.js';
import { QemuRamSend } from './ram-send.js';
import type { Domain, MigrationLimits, Mirrors, RamSend, WaitOptions } from './types.js';

/** What a domain that runs here is made of. */
export interface QemuDomainParts {
  readonly process: QemuProcess;
  readonly definition: Definition;
  /** Private folder of the domain, for sockets and the key. */
  readonly directory: string;
  /** Carries what travels as a stream. */
  readonly carrier: Carrier;
  /** Ends QEMU and turns the images into the tombstone. */
  retire(ownerHost: string): Promise<void>;
  /** Hears of undo steps that did not work. */
  readonly report?: ReportProblem;
}

/** A domain whose QEMU runs on this host. */
export class QemuDomain implements Domain {
  readonly #parts: QemuDomainParts;
  /** Of the migration that goes on, or of the last one. */
  #mirrors: QemuMirrors | undefined;

  constructor(parts: QemuDomainParts) {
    this.#parts = parts;
  }

  get uuid(): string {
    return this.#parts.definition.spec.uuid;
  }

  get name(): string {
    return this.#parts.definition.spec.name;
  }

  get epoch(): number {
    return this.#parts.definition.epoch;
  }

  get generation(): number {
    return this.#parts.definition.generation;
  }

  async launchSpec(options: WaitOptions): Promise<LaunchSpec> {
    const { process, definition } = this.#parts;
    using faults = new QemuFaults(process, 'source');
    try {
      return await discoverLaunchSpec(process, definition, options);
    } catch (error) {
      throw await faults.explain(error, 'describing the domain');
    }
  }

  async mirror(
    disks: readonly LaunchDisk[],
    server: DiskServerAddress,
    limits: MigrationLimits,
    { fresh, ...options }: WaitOptions & { readonly fresh: boolean },
  ): Promise<Mirrors> {
    const parts = { ...this.#common(), disks, server, limits, fresh };
    this.#mirrors = await QemuMirrors.start(parts, options);
    return this.#mirrors;
  }

  sendRam(
    server: RamServerAddress,
    limits: MigrationLimits,
    options: WaitOptions,
  ): Promise<RamSend> {
    const diskIds = mirroredDisks(this.#parts.definition.spec);
    // Without mirrors nothing can settle, unless there is nothing to mirror.
    const none = diskIds.length === 0 ? Promise.resolve() : new Promise<never>(() => undefined);
    const mirrored = this.#mirrors?.settled ?? none;
    const parts = { ...this.#common(), server, limits, diskIds, mirrored };
    return QemuRamSend.start(parts, options);
  }

  retire(ownerHost: string): Promise<void> {
    return this.#parts.retire(ownerHost);
  }

  #common() {
    const { process, directory, carrier, report = () => undefined } = this.#parts;
    return { process, directory, carrier, report };
  }
}

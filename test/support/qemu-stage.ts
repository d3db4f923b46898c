import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, open, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Definition } from '../../src/domain/definitions.js';
import { QemuIncomingDomain } from '../../src/domain/incoming-domain.js';
import { launchArguments } from '../../src/domain/launch-arguments.js';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { assignPciSlots } from '../../src/domain/pci-slots.js';
import { QemuDomain } from '../../src/domain/qemu-domain.js';
import { findOnPath } from '../../src/process/binary.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import type { Launcher } from '../../src/process/launcher.js';
import { QemuProcess } from '../../src/process/qemu-process.js';
import type { Transcript } from '../../src/qmp/client.js';
import { type DomainSpec, parseDomainSpec } from '../../src/spec/domain-spec.js';
import { createBootSectorImage } from './blocks.js';
import { PlainCarrier } from './plain-carrier.js';
import { SerialLog } from './serial-log.js';

const MIB = 1024 ** 2;

/** What a test says of its domain; the rest is small and quick to boot. */
export interface StageSpec {
  readonly machine?: 'q35' | 'pc';
  readonly disks?: readonly object[];
  /** Hears what is said to and by the QEMU of that name. */
  readonly transcript?: (name: string, ...heard: Parameters<Transcript>) => void;
  /** Starts the QEMUs; default: real ones. A fake one's images are all raw. */
  readonly launcher?: Launcher;
  /** Bytes of the source's first disk, from 6 MiB on, that are not zeros. */
  readonly filledBytes?: number;
  /** Where the twins' NBD servers listen. */
  readonly ports?: readonly [number, number];
}

/** One QEMU on the stage, with its images and its serial console. */
export interface Actor {
  readonly process: QemuProcess;
  readonly directory: string;
  readonly serial: SerialLog;
  readonly imagePath: (diskId: string) => string;
}

/** Two QEMUs without agents: a source that runs the boot-sector guest, and twins made for it. */
export class QemuStage implements AsyncDisposable {
  readonly spec: DomainSpec;
  readonly problems: string[] = [];
  readonly carrier = new PlainCarrier();
  readonly #directory: string;
  readonly #binary: string;
  readonly #options: StageSpec;
  readonly #actors: Actor[] = [];

  private constructor(directory: string, binary: string, options: StageSpec) {
    this.#directory = directory;
    this.#binary = binary;
    this.#options = options;
    this.spec = parseDomainSpec({
      name: 'mover',
      uuid: randomUUID(),
      memoryBytes: 64 * MIB,
      machine: options.machine ?? 'q35',
      accelerator: 'tcg',
      serial: { type: 'file' },
      disks: options.disks ?? [{ id: 'root', sizeBytes: 16 * MIB, cache: 'writethrough' }],
    });
  }

  static async open(options: StageSpec = {}): Promise<QemuStage> {
    const binary = options.launcher ? '/fake/qemu' : await findOnPath('qemu-system-x86_64');
    if (binary === undefined) throw new Error('There is no qemu-system-x86_64 on PATH.');
    return new QemuStage(await mkdtemp(join(tmpdir(), 'drover-stage-')), binary, options);
  }

  get definition(): Definition {
    return {
      spec: this.spec,
      cpu: { model: 'qemu64', features: {}, properties: {} },
      pciSlots: assignPciSlots(this.spec),
      kernelSha256: '',
      ownerHost: 'here',
      epoch: 1,
      generation: 1,
      arrivedBy: '',
      process: undefined,
      taps: [],
    };
  }

  /**
   * Starts a QEMU with new images; the first disk of a source can be booted from. `changes` make it
   * another machine.
   */
  async start(
    name: string,
    mode: 'stopped' | 'incoming',
    changes: Partial<DomainSpec> = {},
  ): Promise<Actor> {
    const directory = join(this.#directory, name);
    await mkdir(directory, { mode: 0o700 });
    const shared = this.spec.disks.filter((disk) => disk.shared).map(({ id }) => id);
    const imagePath = (diskId: string) =>
      join(shared.includes(diskId) ? this.#directory : directory, `${diskId}.img`);
    for (const [index, disk] of this.spec.disks.entries()) {
      const path = imagePath(disk.id);
      if (disk.shared && mode === 'incoming') continue;
      if (mode === 'stopped' && index === 0 && !this.#options.launcher)
        await createBootSectorImage(path, disk.sizeBytes);
      else await makeImage(path, this.#options.launcher ? 'raw' : disk.format, disk.sizeBytes);
    }
    const [first] = this.spec.disks;
    if (mode === 'stopped' && first && this.#options.filledBytes) {
      await using image = await open(imagePath(first.id), 'r+');
      const bytes = randomBytes(this.#options.filledBytes);
      await image.write(bytes, 0, bytes.length, 6 * MIB);
    }
    const serialPath = join(directory, 'serial.log');
    const places = {
      images: Object.fromEntries(
        this.spec.disks.map(({ id, format }) => [
          id,
          { driver: 'file' as const, path: imagePath(id), format },
        ]),
      ),
      kernel: undefined,
      serialPath,
      taps: {},
    };
    const process = await QemuProcess.start(
      this.#options.launcher ?? new DetachedLauncher(),
      {
        binary: this.#binary,
        uuid: this.spec.uuid,
        name: this.spec.name,
        directory,
        argv: launchArguments(
          { ...this.definition, spec: { ...this.spec, ...changes } },
          places,
          mode,
        ),
      },
      { transcript: (...heard) => this.#options.transcript?.(name, ...heard) },
    );
    const actor = { process, directory, serial: SerialLog.file(serialPath, name), imagePath };
    this.#actors.push(actor);
    return actor;
  }

  /** The running source as the flow sees it. */
  domain(actor: Actor): QemuDomain {
    return new QemuDomain({
      process: actor.process,
      definition: this.definition,
      directory: actor.directory,
      carrier: this.carrier,
      retire: async () => {
        await actor.process.quit();
      },
      report: (step, error) => this.problems.push(`could not ${step}: ${error}`),
    });
  }

  /** A twin as the flow sees it. */
  incoming(actor: Actor, launchSpec: LaunchSpec): QemuIncomingDomain {
    const allocated = launchSpec.disks.map(({ diskId }) => async () => {
      const { blocks } = await stat(actor.imagePath(diskId));
      return [diskId, blocks * 512] as const;
    });
    return new QemuIncomingDomain({
      process: actor.process,
      attempt: 1,
      startAgain: async () => {
        throw new Error('There is no other twin.');
      },
      disks: launchSpec.disks,
      directory: actor.directory,
      doors: {
        host: 'there',
        sourceHost: 'here',
        data: { address: '127.0.0.1', ports: this.#options.ports ?? [49_600, 49_699] },
        carrier: this.carrier,
        pskIdentity: `${randomUUID()}.1`,
      },
      allocated: async () => Object.fromEntries(await Promise.all(allocated.map((ask) => ask()))),
      written: async () => ({ mark: '', short: undefined }),
      discard: async () => {
        await actor.process.kill();
      },
      arrive: async () => undefined,
      report: (step, error) => this.problems.push(`could not ${step}: ${error}`),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { process, serial } of this.#actors) {
      serial[Symbol.dispose]();
      await process.kill();
    }
    await this.carrier.close();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

async function makeImage(path: string, format: string, sizeBytes: number): Promise<void> {
  if (format === 'raw') {
    await writeFile(path, '');
    await truncate(path, sizeBytes);
  } else {
    await promisify(execFile)('qemu-img', ['create', '-q', '-f', format, path, String(sizeBytes)]);
  }
}

import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { LinuxGuest } from '../../scripts/guest/linux-guest.js';
import { makePsk, PskFolder } from '../../src/channel/psk.js';
import {
  type LaunchMode,
  type LaunchPlan,
  launchArguments,
} from '../../src/domain/launch-arguments.js';
import { findOnPath } from '../../src/process/binary.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import type { LaunchedProcess, LaunchRequest } from '../../src/process/launcher.js';
import { QemuProcess } from '../../src/process/qemu-process.js';
import { moveByHand } from '../by-hand.js';
import type { HandWay } from '../hand-way.js';
import { diskIds, fillImage, type GuestPlan, MIB } from '../stage/guest-plan.js';
import { GuestRecord } from '../stage/guest-record.js';
import { type HostName, type Network, otherHost } from '../stage/network.js';
import type { MovedGuest, Mover } from './mover.js';

type HandName = 'floor' | 'floor-tls' | 'floor-unix' | 'naive';

/** What all movers by hand need. */
export interface HandParts {
  readonly network: Network;
  readonly folder: string;
  readonly kernel: LinuxGuest;
  /** The QEMU that Drover would start for this guest. */
  readonly launchPlan: (plan: GuestPlan, name: string) => Promise<LaunchPlan>;
}

/** Each guest has two ports of its own on both hosts, from here on. */
const FIRST_PORT = 20_000;
const DOWNTIME_LIMIT_MS = 300;

/** Nobody but QEMU, driven at its monitors. */
export class HandMover implements Mover {
  readonly name: HandName;
  readonly #parts: HandParts;
  #guests = 0;

  constructor(name: HandName, parts: HandParts) {
    this.name = name;
    this.#parts = parts;
  }

  async start(plan: GuestPlan, name: string): Promise<MovedGuest> {
    const folder = join(this.#parts.folder, name);
    const port = FIRST_PORT + 2 * this.#guests++;
    const launchPlan = await this.#parts.launchPlan(plan, name);
    const guest = new HandGuest(this.#parts, this.name, { plan, launchPlan, folder, port });
    try {
      await guest.start();
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  servicePids(): readonly number[] {
    return [];
  }
}

/** Starts programs on one of the hosts. */
class HostLauncher extends DetachedLauncher {
  readonly #enter: readonly [string, ...string[]];

  constructor(network: Network, host: HostName) {
    super();
    this.#enter = network.enter(host);
  }

  override launch(
    request: LaunchRequest,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<LaunchedProcess> {
    const [command, ...argv] = this.#enter;
    const inside = { command, argv: [...argv, request.command, ...request.argv] };
    return super.launch({ ...request, ...inside }, options);
  }
}

interface Identity {
  readonly plan: GuestPlan;
  readonly launchPlan: LaunchPlan;
  readonly folder: string;
  readonly port: number;
}

class HandGuest implements MovedGuest {
  readonly record: GuestRecord;
  readonly #parts: HandParts;
  readonly #name: HandName;
  readonly #identity: Identity;
  #host: HostName = 'alpha';
  #qemus: QemuProcess[] = [];

  constructor(parts: HandParts, name: HandName, identity: Identity) {
    this.#parts = parts;
    this.#name = name;
    this.#identity = identity;
    this.record = new GuestRecord('alpha', identity.plan.writes.kib / 4);
  }

  get host(): HostName {
    return this.#host;
  }

  get qemuPid(): number {
    return this.#current.record.process.pid;
  }

  get imagePaths(): readonly string[] {
    return diskIds(this.#identity.plan).map((disk) => this.#image(this.#host, disk));
  }

  async start(): Promise<void> {
    const { plan } = this.#identity;
    await this.#makeImages('alpha');
    for (const [index, disk] of plan.disks.entries()) {
      await fillImage(this.imagePaths[index] ?? '', plan, disk);
    }
    const qemu = await this.#launch('alpha', 'stopped');
    await qemu.qmp.execute('cont');
    await this.record.ready();
  }

  async pause(paused: boolean): Promise<void> {
    await this.#current.qmp.execute(paused ? 'stop' : 'cont');
  }

  async move(): Promise<number> {
    const to = otherHost(this.#host);
    await this.#makeImages(to);
    const source = this.#current;
    const destination = await this.#launch(to, 'incoming');
    await using key = await this.#makeKey();
    await moveByHand({
      source: source.qmp,
      destination: destination.qmp,
      diskIds: diskIds(this.#identity.plan),
      directory: this.#identity.folder,
      downtimeLimitMs: DOWNTIME_LIMIT_MS,
      way: this.#way(to, key),
    });
    const images = this.imagePaths;
    this.#host = to;
    this.#qemus = [destination];
    // It is done when the source's QEMU is gone, as with all others.
    await source.quit();
    const doneMs = performance.now();
    for (const path of images) await rm(path);
    return doneMs;
  }

  async stop(): Promise<void> {
    await this.#current.quit();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.record[Symbol.dispose]();
    for (const qemu of this.#qemus) await qemu.kill();
    await rm(this.#identity.folder, { recursive: true, force: true });
  }

  get #current(): QemuProcess {
    const qemu = this.#qemus[0];
    if (!qemu) throw new Error('The guest has no QEMU.');
    return qemu;
  }

  #image(host: HostName, disk: string): string {
    return join(this.#identity.folder, host, `${disk}.raw`);
  }

  async #makeImages(host: HostName): Promise<void> {
    const { plan } = this.#identity;
    await mkdir(join(this.#identity.folder, host), { recursive: true, mode: 0o700 });
    for (const [index, disk] of diskIds(plan).entries()) {
      await using file = await open(this.#image(host, disk), 'wx');
      await file.truncate((plan.disks[index]?.sizeMib ?? 0) * MIB);
    }
  }

  async #makeKey(): Promise<PskFolder | undefined> {
    if (this.#name !== 'floor-tls') return undefined;
    return PskFolder.write(this.#identity.folder, makePsk('hand'));
  }

  #way(to: HostName, key: PskFolder | undefined): HandWay {
    const options = this.#name === 'naive' ? 'defaults' : 'best';
    if (this.#name === 'floor-unix') return { options };
    const { port } = this.#identity;
    const address = this.#parts.network.address(to);
    const tls = key ? { tls: { directory: key.path, identity: 'hand' } } : {};
    return { options, network: { address, diskPort: port, ramPort: port + 1, ...tls } };
  }

  async #launch(host: HostName, mode: LaunchMode): Promise<QemuProcess> {
    const { launchPlan, folder } = this.#identity;
    const { spec } = launchPlan;
    const directory = join(folder, host, 'run');
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const serialPath = join(folder, host, 'serial.log');
    this.record.follow(host, serialPath);
    const image = (id: string) =>
      ({ driver: 'file', path: this.#image(host, id), format: 'raw' }) as const;
    const { kernelPath, initramfsPath } = this.#parts.kernel;
    const places = {
      images: Object.fromEntries(spec.disks.map(({ id }) => [id, image(id)])),
      kernel: { path: kernelPath, initrdPath: initramfsPath },
      serialPath,
      taps: {},
    };
    const qemu = await QemuProcess.start(new HostLauncher(this.#parts.network, host), {
      binary: await qemuBinary(),
      uuid: spec.uuid,
      name: spec.name,
      directory,
      argv: launchArguments(launchPlan, places, mode),
    });
    this.#qemus.push(qemu);
    return qemu;
  }
}

/** The one QEMU that everybody uses here. */
export async function qemuBinary(): Promise<string> {
  const path = await findOnPath('qemu-system-x86_64');
  if (path === undefined) throw new Error('There is no qemu-system-x86_64 on PATH.');
  return path;
}

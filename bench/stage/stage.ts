import { mkdtempSync, rmSync } from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LinuxGuest, prepareLinuxGuest } from '../../scripts/guest/linux-guest.js';
import { Definitions } from '../../src/domain/definitions.js';
import type { LaunchPlan } from '../../src/domain/launch-arguments.js';
import { HandMover, type HandParts } from '../movers/by-hand.js';
import { createDomain, DroverMover } from '../movers/drover.js';
import { LibvirtMover } from '../movers/libvirt.js';
import type { Mover, MoverName } from '../movers/mover.js';
import { DroverHosts } from './drover-hosts.js';
import type { GuestPlan } from './guest-plan.js';
import { LibvirtHosts } from './libvirt-hosts.js';
import { type Link, Network } from './network.js';

/** Two hosts with all that movers need on them. */
export class Stage implements AsyncDisposable {
  readonly network: Network;
  readonly #folder: string;
  readonly #kernel: LinuxGuest;
  readonly #movers = new Map<MoverName, Mover>();
  #drover: DroverHosts | undefined;
  #libvirt: LibvirtHosts | undefined;

  private constructor(network: Network, folder: string) {
    this.network = network;
    this.#folder = folder;
    this.#kernel = prepareLinuxGuest();
    process.once('exit', this.#onExit);
  }

  static async start(link: Link): Promise<Stage> {
    const network = await Network.start(link);
    const folder = mkdtempSync(join(tmpdir(), 'drover-bench-'));
    const stage = new Stage(network, folder);
    try {
      // QEMUs run as users of their own, and must find what is theirs below.
      await chmod(folder, 0o711);
      stage.#drover = await DroverHosts.start(network, join(folder, 'drover'), stage.#kernel);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The mover of this name. What it needs is started with the first question. */
  async mover(name: MoverName): Promise<Mover> {
    const known = this.#movers.get(name);
    if (known) return known;
    const mover = await this.#make(name);
    this.#movers.set(name, mover);
    return mover;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#drover?.[Symbol.asyncDispose]();
    await this.#libvirt?.[Symbol.asyncDispose]();
    this.#onExit();
    process.off('exit', this.#onExit);
  }

  // All that runs on the hosts is of this stage, and nothing of it may outlive it.
  readonly #onExit = (): void => {
    this.network[Symbol.dispose]();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  };

  async #make(name: MoverName): Promise<Mover> {
    const drover = this.#drover;
    if (!drover) throw new Error('There are no agents.');
    switch (name) {
      case 'direct':
      case 'stream':
        return new DroverMover(name, drover);
      case 'libvirt':
      case 'libvirt-tls':
      case 'libvirt-sync':
        return new LibvirtMover(name, await this.#startLibvirt(), this.#kernel);
      default:
        return new HandMover(name, await this.#handParts(drover));
    }
  }

  async #startLibvirt(): Promise<LibvirtHosts> {
    const folder = join(this.#folder, 'libvirt');
    this.#libvirt ??= await LibvirtHosts.start(this.network, folder, this.#kernel);
    return this.#libvirt;
  }

  async #handParts(drover: DroverHosts): Promise<HandParts> {
    const folder = join(this.#folder, 'hand');
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const launchPlan = (plan: GuestPlan, name: string) => planOf(drover, plan, name);
    return { network: this.network, folder, kernel: this.#kernel, launchPlan };
  }
}

/** The QEMU that an agent would start for a guest. */
async function planOf(hosts: DroverHosts, plan: GuestPlan, name: string): Promise<LaunchPlan> {
  const host = hosts.get('alpha');
  await createDomain(host, plan, name);
  const fail = (path: string, error: unknown) => {
    throw new Error(`${path}: ${error}`);
  };
  const stored = await new Definitions(host.stateDirectory).readAll(fail);
  const found = stored.find(({ definition }) => definition?.spec.name === name)?.definition;
  if (!found) throw new Error(`The agent does not know ${name}.`);
  await host.client.domains.deleteDomain({ domain: name });
  return found;
}

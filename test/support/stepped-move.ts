import type { Transport } from '../../src/channel/types.js';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type {
  Domain,
  IncomingDomain,
  LoadedGuest,
  MigratableDomains,
  MigrationLimits,
  Mirrors,
  RamPause,
  RamSend,
} from '../../src/domain/types.js';
import type { PlainCarrier } from './plain-carrier.js';

/** What a move needs of a host; another life of its agent has other domains. */
export interface MoveHost {
  readonly domains: MigratableDomains;
  readonly carrier: PlainCarrier;
}

/** A migration between two hosts without agents, step by step, so that either may restart. */
export class SteppedMove {
  readonly migrationId = 'm1';
  readonly limits: MigrationLimits = { downtimeLimitMs: 300, maxBandwidth: 0 };
  readonly signal = AbortSignal.timeout(30_000);
  transport: Transport = 'direct';
  readonly #here: MoveHost;
  readonly #there: MoveHost;
  launchSpec!: LaunchSpec;
  domain!: Domain;
  incoming!: IncomingDomain;
  mirrors!: Mirrors;
  ram!: RamSend;
  loading!: Promise<LoadedGuest>;
  pause!: RamPause;

  constructor(here: MoveHost, there: MoveHost) {
    this.#here = here;
    this.#there = there;
  }

  get uuid(): string {
    return this.launchSpec.spec.uuid;
  }

  async prepare(): Promise<this> {
    const { migrationId, signal } = this;
    this.domain = this.#here.domains.claim('web1', migrationId);
    this.launchSpec = await this.domain.launchSpec({ signal });
    this.incoming = await this.#there.domains.startIncoming(
      {
        launchSpec: this.launchSpec,
        migrationId,
        attempt: 1,
        epoch: this.domain.epoch,
        generation: this.domain.generation + 1,
        sourceHost: 'here',
      },
      { signal },
    );
    return this;
  }

  async mirror(): Promise<this> {
    const { signal, transport } = this;
    const server = await this.incoming.exportDisks({ signal, transport });
    const { disks } = this.launchSpec;
    const options = { signal, fresh: false };
    this.mirrors = await this.domain.mirror(disks, server, this.limits, options);
    await this.mirrors.ready({ signal });
    await this.mirrors.activate({ signal });
    return this;
  }

  /** RAM is on its way, and QEMU may not pause the guest yet. */
  async sendRam(attempt = 1): Promise<this> {
    const { signal, transport } = this;
    const server = await this.incoming.acceptRam({ signal, transport, attempt });
    this.loading = this.incoming.loaded({ signal });
    this.loading.catch(() => undefined);
    this.ram = await this.domain.sendRam(server, this.limits, { signal });
    return this;
  }

  /** The same, and QEMU may pause the guest. */
  async precopy(attempt = 1): Promise<this> {
    await this.sendRam(attempt);
    await this.ram.allowPause();
    return this;
  }

  async switchover(): Promise<this> {
    const { signal } = this;
    this.pause = await this.ram.preSwitchover({ signal });
    return this;
  }

  async settle(): Promise<this> {
    const { signal } = this;
    await this.mirrors.settle({ signal });
    await this.mirrors.detach();
    return this;
  }

  async complete(): Promise<this> {
    const { signal } = this;
    await this.ram.finish({ signal });
    return this;
  }

  async load(): Promise<this> {
    const { signal } = this;
    await this.loading;
    const guard = await this.ram.guard({ signal });
    if (!guard.fenced || !guard.settled) throw new Error(`It says ${JSON.stringify(guard)}.`);
    return this;
  }

  /** What the handover is to the domains. */
  async handOver(): Promise<this> {
    await this.incoming.resume({ paused: this.pause.guestPaused }, { signal: this.signal });
    this.ram.release();
    await this.incoming.arrive();
    await this.domain.retire('there');
    return this;
  }

  /** Breaks what goes through the agents, as the end of one of them does. */
  cut(): void {
    this.#here.carrier.cut();
    this.#there.carrier.cut();
  }

  /** The switchover is given up before the mirrors settle: they stay, and the guest runs on. */
  async giveRamUp(): Promise<this> {
    await this.ram[Symbol.asyncDispose]();
    await this.loading.catch(() => undefined);
    return this;
  }

  /** From the beginning of the RAM to the end. */
  async finish(attempt = 1): Promise<void> {
    await this.precopy(attempt);
    await this.switchover();
    await this.settle();
    await this.complete();
    await this.load();
    await this.handOver();
  }
}

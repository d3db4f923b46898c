import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DeepPartial, DomainSpec } from '../../src/gen/drover/v1/domain.js';
import { type Migration, Migration_Transport } from '../../src/gen/drover/v1/migration.js';
import { QmpClient } from '../../src/qmp/client.js';
import type { DroverHost, DroverHosts } from '../stage/drover-hosts.js';
import { diskIds, fillImage, type GuestPlan, MIB, workloadArguments } from '../stage/guest-plan.js';
import { GuestRecord } from '../stage/guest-record.js';
import { type HostName, otherHost } from '../stage/network.js';
import type { MovedGuest, MoveOptions, Mover } from './mover.js';

const TRANSPORTS = {
  direct: Migration_Transport.DIRECT,
  stream: Migration_Transport.STREAM,
} as const;

/** Drover, asked through its API. */
export class DroverMover implements Mover {
  readonly name: 'direct' | 'stream';
  readonly #hosts: DroverHosts;

  constructor(name: 'direct' | 'stream', hosts: DroverHosts) {
    this.name = name;
    this.#hosts = hosts;
  }

  async start(plan: GuestPlan, name: string): Promise<MovedGuest> {
    const host = this.#hosts.get('alpha');
    await createDomain(host, plan, name);
    for (const [index, disk] of plan.disks.entries()) {
      await fillImage(await imagePath(host, name, diskIds(plan)[index] ?? ''), plan, disk);
    }
    const { domain } = await host.client.domains.startDomain({ domain: name });
    const uuid = domain?.spec?.uuid ?? '';
    const guest = new DroverGuest(this.#hosts, this.name, { plan, name, uuid });
    guest.record.follow('alpha', domain?.serialPath ?? '');
    await guest.record.ready();
    return guest;
  }

  servicePids(host: HostName): readonly number[] {
    return [this.#hosts.get(host).agentPid];
  }
}

/** Defines a guest with the hosts' agent, without starting it. */
export async function createDomain(host: DroverHost, plan: GuestPlan, name: string): Promise<void> {
  const spec: DeepPartial<DomainSpec> = {
    name,
    memoryBytes: plan.memoryMib * MIB,
    vcpus: 1,
    cpu: 'qemu64',
    machine: 'q35',
    accelerator: 'tcg',
    kernel: 'linux',
    kernelArguments: workloadArguments(plan),
    disks: plan.disks.map(({ sizeMib }, index) => ({
      ...{ id: diskIds(plan)[index] ?? '', sizeBytes: sizeMib * MIB },
      ...{ bus: 'virtio-blk', format: 'raw' },
    })),
    serial: { type: 'file' },
  };
  await host.client.domains.createDomain({ spec: DomainSpec.fromPartial(spec) });
}

async function imagePath(host: DroverHost, name: string, disk: string): Promise<string> {
  const { domains } = await host.client.domains.listDomains({});
  const uuid = domains.find(({ spec }) => spec?.name === name)?.spec?.uuid ?? '';
  return join(host.pool, uuid, `${disk}.raw`);
}

interface Identity {
  readonly plan: GuestPlan;
  readonly name: string;
  readonly uuid: string;
}

class DroverGuest implements MovedGuest {
  readonly record: GuestRecord;
  readonly #hosts: DroverHosts;
  readonly #transport: keyof typeof TRANSPORTS;
  readonly #identity: Identity;
  #host: HostName = 'alpha';
  #stopped = false;

  constructor(hosts: DroverHosts, transport: keyof typeof TRANSPORTS, identity: Identity) {
    this.#hosts = hosts;
    this.#transport = transport;
    this.#identity = identity;
    this.record = new GuestRecord('alpha', identity.plan.writes.kib / 4);
  }

  get host(): HostName {
    return this.#host;
  }

  get qemuPid(): number {
    return Number(readFileSync(join(this.#runFolder, 'qemu.pid'), 'utf8'));
  }

  get imagePaths(): readonly string[] {
    const { plan, uuid } = this.#identity;
    return diskIds(plan).map((disk) => join(this.#at.pool, uuid, `${disk}.raw`));
  }

  async pause(paused: boolean): Promise<void> {
    // The agent has the one monitor; the other is for people.
    await using qmp = await QmpClient.connect(join(this.#runFolder, 'rescue.sock'));
    await qmp.execute(paused ? 'stop' : 'cont');
  }

  async move(options: MoveOptions = {}): Promise<number> {
    const to = otherHost(this.#host);
    const { client } = this.#at;
    const { migration } = await client.migrations.startMigration({
      domain: this.#identity.name,
      destinationHost: to,
      transport: TRANSPORTS[this.#transport],
      gentle: options.gentle ?? false,
    });
    const migrationId = migration?.migrationId ?? '';
    const serial = join(this.#hosts.get(to).stateDirectory, 'domains', this.#identity.uuid);
    let last: Migration | undefined;
    let doneMs = Number.NaN;
    for await (const answer of client.migrations.watchMigration({ migrationId })) {
      last = answer.migration ?? last;
      doneMs = performance.now();
      // The folder is there once the incoming QEMU is.
      if (last?.phase === 'PHASE_MIRROR') this.record.follow(to, join(serial, 'serial.log'));
    }
    if (last?.state !== 'STATE_SUCCEEDED') {
      throw new Error(`The migration did not succeed: ${last?.failure?.message ?? 'no answer'}`);
    }
    this.#host = to;
    return doneMs;
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await this.#at.client.domains.stopDomain({ domain: this.#identity.name, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop().catch(() => undefined);
    this.record[Symbol.dispose]();
    const name = this.#identity.name;
    for (const host of [this.#host, otherHost(this.#host)]) {
      const tombstone = host !== this.#host;
      await this.#hosts
        .get(host)
        .client.domains.deleteDomain({ domain: name, tombstone })
        .catch(() => undefined);
    }
  }

  get #at(): DroverHost {
    return this.#hosts.get(this.#host);
  }

  get #runFolder(): string {
    return join(this.#at.runDirectory, this.#identity.uuid);
  }
}

import { expect } from 'vitest';
import type { Transport } from '../../src/channel/types.js';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { Migration_State } from '../../src/gen/drover/v1/migration.js';
import type { PeerHandler, PeerHeader } from '../../src/migration/peer.js';
import type { PeerClients } from '../../src/rpc/peer-directory.js';
import { deferred } from '../../src/util/deferred.js';
import { peersOf } from './fake-agent.js';
import { FakeFleet } from './fake-fleet.js';
import { type TestHost, watchToEnd } from './fleet.js';

const HOSTS = ['host-a', 'host-b', 'host-c'];

/** What a destination was asked to prepare. */
interface Asked {
  readonly header: PeerHeader;
  readonly launchSpec: LaunchSpec;
}

/**
 * Three hosts of one CA. A domain moves from host-a to host-b; host-c takes no part and has a
 * certificate that is as good as theirs. host-b stands still before it exports disks to host-a,
 * until it is let on.
 */
export class StrangerStage implements AsyncDisposable {
  fleet!: FakeFleet;
  /** Calls of host-c. */
  stranger!: PeerClients;
  /** What host-b was asked to prepare last. */
  #asked: Asked | undefined;
  readonly #reached = deferred();
  readonly #go = deferred();

  static async open(): Promise<StrangerStage> {
    const stage = new StrangerStage();
    const hold = (handler: PeerHandler) => stage.#hold(handler);
    stage.fleet = await FakeFleet.start(HOSTS, {
      parts: (host) => (host === 'host-b' ? { handler: hold } : {}),
    });
    stage.stranger = await stage.callerAs('host-c');
    return stage;
  }

  host(name: string): TestHost {
    return this.fleet.host(name);
  }

  /** Calls of a host, with its own certificate. */
  async callerAs(host: string): Promise<PeerClients> {
    const others = HOSTS.filter((name) => name !== host);
    const addresses = others.map((name) => [name, this.host(name).config.listen.address]);
    const tls = await this.fleet.fleet.certificates.host(host);
    return peersOf(host, tls, Object.fromEntries(addresses));
  }

  /** Begins to move `web` and answers when host-b has been asked for its disks. */
  async moveUntilExport(): Promise<Asked & { readonly migrationId: string }> {
    await this.fleet.run('host-a', 'web');
    const { migration } = await this.host('host-a').client.migrations.startMigration({
      domain: 'web',
      destinationHost: 'host-b',
    });
    await this.#reached.promise;
    return { migrationId: migration?.migrationId ?? '', ...this.asked };
  }

  /** What host-b was asked to prepare last. */
  get asked(): Asked {
    if (!this.#asked) throw new Error('Nothing was prepared.');
    return this.#asked;
  }

  /** Lets host-b go on, now and later. */
  letGo(): void {
    this.#go.resolve();
  }

  /** Lets it go on, and asserts that the guest moves. */
  async finish(migrationId: string): Promise<void> {
    this.letGo();
    const migration = await watchToEnd(this.host('host-a'), migrationId);
    expect(migration.state).toBe(Migration_State.SUCCEEDED);
  }

  /** Moves `web` from one host to another, which must work. */
  async move(from: string, destinationHost: string, migrationId = ''): Promise<void> {
    const { client } = this.host(from);
    const request = { domain: 'web', destinationHost, migrationId };
    const { migration } = await client.migrations.startMigration(request);
    const moved = await watchToEnd({ client }, migration?.migrationId ?? '');
    expect(moved.state).toBe(Migration_State.SUCCEEDED);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.letGo();
    this.stranger?.[Symbol.dispose]();
    await this.fleet?.[Symbol.asyncDispose]();
  }

  #hold(handler: PeerHandler): PeerHandler {
    return new Proxy(handler, {
      get: (target, name: keyof PeerHandler) => {
        if (name === 'exportDisks') {
          return async (header: PeerHeader, transport: Transport) => {
            if (header.sourceHost !== 'host-a') return await target.exportDisks(header, transport);
            this.#reached.resolve();
            await this.#go.promise;
            return await target.exportDisks(header, transport);
          };
        }
        if (name === 'prepare') {
          return (header: PeerHeader, launchSpec: LaunchSpec) => {
            this.#asked = { header, launchSpec };
            return target.prepare(header, launchSpec);
          };
        }
        return target[name].bind(target);
      },
    });
  }
}

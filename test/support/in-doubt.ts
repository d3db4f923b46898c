import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, vi } from 'vitest';
import type { AgentConfig } from '../../src/agent/config.js';
import type { JournalEntry } from '../../src/migration/journal.js';
import { readJournal } from '../../src/migration/journal-file.js';
import type { PeerHandler } from '../../src/migration/peer.js';
import { RpcError } from '../../src/rpc/errors.js';
import { deferred } from '../../src/util/deferred.js';
import type { Side } from '../../src/util/reasoned-error.js';
import { FakeFleet } from './fake-fleet.js';
import type { FakeQemu } from './fake-qemu/qemu.js';

/** What the agents of alpha and beta hear of each other; WhoRuns goes another way and always comes. */
class ControlLink {
  /** Resolves when beta has taken the guest, and nobody will hear of it. */
  readonly taken = deferred();
  cut = false;
  /** From the commit on nothing is heard. */
  cutsAtCommit = true;

  guard(handler: PeerHandler): PeerHandler {
    const lost = (): never => {
      throw new RpcError('PEER_UNREACHABLE', 'The link is cut.');
    };
    return new Proxy(handler, {
      get: (target, name: keyof PeerHandler) => {
        if (this.cut) return async () => lost();
        if (name === 'commit' && this.cutsAtCommit) {
          return async (...args: Parameters<PeerHandler['commit']>) => {
            // The destination's questions are lost first: its source must not hear by them.
            this.cut = true;
            await target.commit(...args);
            this.taken.resolve();
            lost();
          };
        }
        const value = target[name];
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }
}

/** A guest that alpha gave up and beta took, of which alpha has not heard. */
export class InDoubt implements AsyncDisposable {
  readonly hosts: FakeFleet;
  readonly link: ControlLink;
  readonly migrationId: string;
  readonly domainUuid: string;
  /** The QEMUs of the guest on either host. */
  readonly source: FakeQemu;
  readonly destination: FakeQemu;

  private constructor(
    hosts: FakeFleet,
    link: ControlLink,
    ids: { readonly migrationId: string; readonly domainUuid: string },
    source: FakeQemu,
  ) {
    this.hosts = hosts;
    this.link = link;
    this.migrationId = ids.migrationId;
    this.domainUuid = ids.domainUuid;
    this.source = source;
    const [destination] = hosts.launcher('beta').alive;
    if (!destination) throw new Error('beta has no QEMU.');
    this.destination = destination;
  }

  static async open(change: Partial<AgentConfig> = {}): Promise<InDoubt> {
    const link = new ControlLink();
    const hosts = await FakeFleet.start(['alpha', 'beta'], {
      config: (_, config) => ({ ...config, ...change }),
      parts: () => ({ handler: (handler) => link.guard(handler) }),
    });
    try {
      const source = await hosts.run('alpha', 'web');
      await hosts.writes(source, 2);
      const { migrations } = hosts.host('alpha').client;
      const { migration } = await migrations.startMigration({
        domain: 'web',
        destinationHost: 'beta',
      });
      await link.taken.promise;
      const { migrationId = '', domainUuid = '' } = migration ?? {};
      return new InDoubt(hosts, link, { migrationId, domainUuid }, source);
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** beta is gone: its agent and, unless it is only that, its QEMU. */
  async loseBeta(lost: 'host' | 'agent' = 'host'): Promise<void> {
    await this.hosts.host('beta').stop();
    if (lost === 'host') this.hosts.launcher('beta').killAll();
  }

  /** The agents hear each other again. */
  heal(): void {
    this.link.cutsAtCommit = false;
    this.link.cut = false;
  }

  client(host: string) {
    return this.hosts.host(host).client;
  }

  async whoRuns(host: string) {
    const { ownership } = await this.client(host).domains.whoRuns({ domain: 'web' });
    if (!ownership) throw new Error('The answer is empty.');
    return ownership;
  }

  async domain(host: string) {
    const { domain } = await this.client(host).domains.getDomain({ domain: this.domainUuid });
    if (!domain) throw new Error('The answer is empty.');
    return domain;
  }

  /** What a journal says, read from its file. */
  async entries(host: string, side: Side): Promise<readonly JournalEntry[]> {
    const { state } = this.hosts.host(host).config.directories;
    const path = join(state, 'journal', this.domainUuid, `${this.migrationId}.${side}.log`);
    return (await readJournal(path, { binding: undefined })).entries;
  }

  async records(host: string, side: Side): Promise<readonly string[]> {
    return (await this.entries(host, side)).map(({ record }) => record);
  }

  /** Resolves when the journal has a record. */
  async recorded(host: string, side: Side, record: string): Promise<void> {
    await vi.waitFor(async () => expect(await this.records(host, side)).toContain(record), {
      timeout: 15_000,
      interval: 20,
    });
  }

  /** Resolves when a host says of the domain that it is in doubt, and why. */
  async told(host: string, reason: string): Promise<void> {
    await vi.waitFor(async () => expect((await this.domain(host)).doubt?.reason).toBe(reason), {
      timeout: 10_000,
      interval: 20,
    });
  }

  /** The files of the domain's images on a host. */
  async images(host: string): Promise<readonly string[]> {
    return await readdir(join(this.hosts.host(host).pool, this.domainUuid));
  }

  /** Resolves when a guest has stopped to write, and fails if it goes on after that. */
  async expectStill(qemu: FakeQemu): Promise<void> {
    let before = -1;
    await vi.waitFor(
      () => {
        const now = qemu.acknowledged.length;
        const still = now === before;
        before = now;
        expect(still, 'the guest writes').toBe(true);
      },
      { timeout: 10_000, interval: 100 },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.link.taken.resolve();
    await this.hosts[Symbol.asyncDispose]();
  }
}

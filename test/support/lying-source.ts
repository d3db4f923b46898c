import { readdir } from 'node:fs/promises';
import { expect, vi } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type { PeerCalls, PeerHeader } from '../../src/migration/peer.js';
import type { PeerClients } from '../../src/rpc/peer-directory.js';
import { type FakeAgent, fakeHeader, patiently, peersOf, startFakeAgent } from './fake-agent.js';
import { FakeFleet } from './fake-fleet.js';
import { migrate } from './fleet.js';
import { wrapped } from './hostile.js';

/**
 * mallory, a source that lies to its destination, beta: it has a certificate of the CA and says to
 * every question that its migrations go on. alpha is honest and moves a guest to beta after all.
 */
export class LyingSource implements AsyncDisposable {
  readonly hosts: FakeFleet;
  /** What mallory may say to beta. */
  readonly calls: PeerCalls;
  /** What beta takes for a sound launch spec. */
  readonly sound: LaunchSpec;
  readonly #agent: FakeAgent;
  readonly #peers: PeerClients;

  private constructor(hosts: FakeFleet, sound: LaunchSpec, agent: FakeAgent, peers: PeerClients) {
    this.hosts = hosts;
    this.sound = sound;
    this.calls = peers.calls('beta');
    this.#agent = agent;
    this.#peers = peers;
  }

  static async start(): Promise<LyingSource> {
    let sound: LaunchSpec | undefined;
    const hosts = await FakeFleet.start(['alpha', 'beta', 'mallory'], {
      parts: () => ({
        handler: (handler) =>
          wrapped(handler, {
            prepare: (header, launchSpec) => {
              sound ??= launchSpec;
              return handler.prepare(header, launchSpec);
            },
          }),
      }),
    });
    await hosts.run('alpha', 'web');
    await moveThereAndBack(hosts);
    if (!sound) throw new Error('No launch spec was seen.');
    const { listen, tls } = hosts.host('mallory').config;
    await hosts.host('mallory').stop();
    const agent = await startFakeAgent(tls, {
      address: listen.address,
      peer: {
        queryMigration: async ({ sourceJournalId }) => ({
          record: 'STARTED',
          rank: { epoch: 1, generation: 1 },
          journalId: sourceJournalId,
          failure: undefined,
        }),
      },
    });
    const { address } = hosts.host('beta').config.listen;
    return new LyingSource(hosts, sound, agent, peersOf('mallory', tls, { beta: address }));
  }

  /** A migration of a guest that nobody has. */
  fiction(change: Partial<PeerHeader> = {}): { header: PeerHeader; launchSpec: LaunchSpec } {
    const header = fakeHeader({ sourceHost: 'mallory', destinationHost: 'beta', ...change });
    const { domainUuid: uuid } = header;
    const spec = { ...this.sound.spec, uuid, name: `m-${uuid}` };
    return { header, launchSpec: { ...this.sound, spec } };
  }

  /** Prepares one; the header answers what it needs from then on. */
  async prepare(): Promise<PeerHeader> {
    const { header, launchSpec } = this.fiction();
    const { journalId } = await this.calls.prepare(header, launchSpec, patiently());
    return { ...header, destinationJournalId: journalId };
  }

  /** Nothing is left of what mallory has brought; alpha's guest comes as if nothing had been. */
  async expectUnharmed(): Promise<void> {
    const { client, pool, config } = this.hosts.host('beta');
    await vi.waitFor(async () => {
      const { domains } = await client.domains.listDomains({});
      expect(domains.filter(({ spec }) => spec?.name !== 'web')).toEqual([]);
      expect(this.hosts.launcher('beta').alive).toEqual([]);
      expect((await readdir(pool)).sort()).toEqual(['.tombstones', 'images']);
      expect(await readdir(config.directories.run)).toEqual([]);
    });
    await this.honestMigration();
  }

  /** alpha moves its guest to beta, and beta moves it back. */
  async honestMigration(): Promise<void> {
    await moveThereAndBack(this.hosts);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#peers[Symbol.dispose]();
    await this.#agent[Symbol.asyncDispose]();
    await this.hosts[Symbol.asyncDispose]();
  }
}

async function moveThereAndBack(hosts: FakeFleet): Promise<void> {
  for (const [from, to] of [
    ['alpha', 'beta'],
    ['beta', 'alpha'],
  ] as const) {
    const moved = await migrate(hosts.host(from), 'web', to);
    expect(moved.failure).toBeUndefined();
  }
}

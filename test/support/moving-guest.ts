import { expect, vi } from 'vitest';
import type { Migration } from '../../src/gen/drover/v1/migration.js';
import type { FakeFleet } from './fake-fleet.js';
import type { FakeQemu } from './fake-qemu/qemu.js';
import { migrate } from './fleet.js';

/** Where a guest is after a migration that something happened to. */
export type Outcome = 'stays' | 'moves' | 'is down on the source' | 'is down on the destination';

/** A guest that is to move from alpha to beta, and what must be true of it afterwards. */
export class MovingGuest implements AsyncDisposable {
  static #count = 0;
  readonly name: string;
  readonly source: FakeQemu;
  readonly #hosts: FakeFleet;

  private constructor(hosts: FakeFleet, name: string, source: FakeQemu) {
    this.#hosts = hosts;
    this.name = name;
    this.source = source;
  }

  static async run(hosts: FakeFleet): Promise<MovingGuest> {
    const name = `web${MovingGuest.#count++}`;
    const guest = new MovingGuest(hosts, name, await hosts.run('alpha', name));
    await hosts.writes(guest.source, 2);
    return guest;
  }

  /** `withinMs` is how long the destination may take to notice that it is over. */
  async expect(outcome: Outcome, ended: Migration, withinMs = 0): Promise<void> {
    const { state, runningOn, failure } = ended;
    const found = { state, runningOn, reason: failure?.reason };
    if (outcome === 'stays') {
      expect(found).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
      await this.expectStays(withinMs);
    } else if (outcome === 'moves') {
      expect(found).toMatchObject({ state: 'STATE_SUCCEEDED' });
      await this.expectMoved();
    } else if (outcome === 'is down on the source') {
      expect(found).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_NOWHERE' });
      expect(failure?.reason).toBe('SOURCE_QEMU_DIED');
      await this.#isDown();
    } else {
      await this.#isDownOnDestination();
    }
  }

  /** It runs on the source, nothing of the migration is left, and the next one succeeds. */
  async expectStays(withinMs = 0): Promise<void> {
    const gone = () => this.#hosts.expectNothingOn('beta', this.source.uuid);
    await (withinMs === 0 ? gone() : vi.waitFor(gone, withinMs));
    await this.expectUntouched();
    const { failure } = await migrate(this.#hosts.host('alpha'), this.name, 'beta');
    expect(failure, 'of the next migration').toBeUndefined();
    await this.expectMoved();
  }

  /** Its QEMU on the source runs it, and has nothing left of a migration. */
  async expectUntouched(): Promise<void> {
    expect(this.source.alive).toBe(true);
    expect(this.source.runState).toBe('running');
    expect([...this.source.jobs.keys()], 'jobs left').toEqual([]);
    const nodes = [...this.source.graph.nodes.keys()];
    expect(nodes.filter((node) => node.startsWith('target-'))).toEqual([]);
    await this.#hosts.writes(this.source, 2);
  }

  /** It runs on the destination alone and has lost nothing on the way. */
  async expectMoved(): Promise<void> {
    const [destination, ...others] = this.#runningOn('beta');
    if (!destination) throw new Error(`${this.name} does not run on beta`);
    expect(others).toEqual([]);
    expect(this.#runningOn('alpha')).toEqual([]);
    await this.#hosts.writes(destination, 2);
    await destination.stopGuest('paused');
    // All QEMUs that this guest ever had: a twin that was given up must not have run it either.
    const all = [...this.#hosts.launchers.values()].flatMap(({ qemus }) => qemus);
    const its = all.filter(({ uuid }) => uuid === this.source.uuid);
    await this.#hosts.judge(this.name, 'beta', its);
    await vi.waitFor(async () => {
      const { domains } = this.#hosts.host('alpha').client;
      const { domain } = await domains.getDomain({ domain: this.name });
      expect(domain, 'what alpha keeps').toMatchObject({ state: 'STATE_MOVED', ownerHost: 'beta' });
    }, 5_000);
  }

  async #isDown(): Promise<void> {
    await this.#hosts.expectNothingOn('beta', this.source.uuid);
    const { domains } = this.#hosts.host('alpha').client;
    const { domain } = await domains.startDomain({ domain: this.name });
    expect(domain?.state).toBe('STATE_RUNNING');
    const { failure } = await migrate(this.#hosts.host('alpha'), this.name, 'beta');
    expect(failure, 'of the next migration').toBeUndefined();
    expect(this.#runningOn('alpha')).toEqual([]);
  }

  async #isDownOnDestination(): Promise<void> {
    expect(this.#runningOn('alpha')).toEqual([]);
    expect(this.#runningOn('beta')).toEqual([]);
    const { domain } = await this.#hosts
      .host('beta')
      .client.domains.startDomain({ domain: this.name });
    expect(domain?.state).toBe('STATE_RUNNING');
  }

  #runningOn(host: string): FakeQemu[] {
    return this.#hosts.launcher(host).alive.filter(({ uuid }) => uuid === this.source.uuid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const launcher of this.#hosts.launchers.values()) {
      launcher.faults.clear();
      for (const qemu of launcher.alive) if (qemu.uuid === this.source.uuid) qemu.die();
    }
  }
}

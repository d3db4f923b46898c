import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseLog } from '../../src/util/log-format.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { hold } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { MovingGuest } from '../support/moving-guest.js';

describe('the order of a switchover', () => {
  let hosts: FakeFleet;
  let guest: MovingGuest;
  beforeEach(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
    guest = await MovingGuest.run(hosts);
  });
  afterEach(() => hosts[Symbol.asyncDispose]());

  /** What is so at the moment when QEMU of a host is told something. */
  const seenAt = async <T>(
    host: string,
    at: { command: string } | { event: string },
    look: () => T,
  ): Promise<T> => {
    const seen: T[] = [];
    hosts.launcher(host).faults.add({ at, action: () => void seen.push(look()) });
    const { failure } = await migrate(hosts.host('alpha'), guest.name, 'beta');
    expect(failure).toBeUndefined();
    expect(seen).toHaveLength(1);
    return seen[0] as T;
  };

  /** The last record of a host's journal of the domain. */
  const written = (host: string): unknown => {
    const { state } = hosts.host(host).config.directories;
    const folder = join(state, 'journal', guest.source.uuid);
    const [file = ''] = readdirSync(folder);
    return parseLog(readFileSync(join(folder, file))).records.at(-1)?.['record'];
  };

  it('makes every mirror active before the guest is paused', async () => {
    const jobs = await seenAt('alpha', { event: 'STOP' }, () =>
      [...guest.source.jobs.values()].map(({ activelySynced }) => activelySynced),
    );
    expect(jobs).toEqual([true, true]);
  });

  it('lets go of every mirror, node and key before the last RAM is sent', async () => {
    const { source } = guest;
    const left = await seenAt('alpha', { command: 'migrate-continue' }, () => ({
      jobs: [...source.jobs.keys()],
      targets: [...source.graph.nodes.keys()].filter((name) => name.startsWith('target-')),
      state: source.runState,
    }));
    expect(left).toEqual({ jobs: [], targets: [], state: 'finish-migrate' });
  });

  it('gives the guest up only when the destination has voted', async () => {
    const held = hold();
    hosts.launcher('beta').faults.add({ at: { command: 'nbd-server-stop' }, action: held.action });
    const moved = migrate(hosts.host('alpha'), guest.name, 'beta');
    await held.reached;
    await vi.waitFor(() => expect(guest.source.runState).toBe('postmigrate'), 5_000);
    const given = vi.waitFor(() => expect(written('alpha')).toBe('COMMITTED'), 300);
    await expect(given).rejects.toThrow();
    held.release();
    expect((await moved).failure).toBeUndefined();
  });

  it('runs the guest only when both sides have written who has it, and nobody else can write', async () => {
    const now = await seenAt('beta', { command: 'cont' }, () => {
      const [incoming] = hosts.launcher('beta').alive;
      return {
        source: guest.source.runState,
        given: written('alpha'),
        taken: written('beta'),
        exports: incoming?.exports.size,
        server: incoming?.nbdServer,
      };
    });
    expect(now).toMatchObject({
      source: 'postmigrate',
      given: 'COMMITTED',
      taken: 'OWNED',
      exports: 0,
      server: undefined,
    });
  });

  it('keeps the source until the destination has answered, and its images until the last', async () => {
    expect(await seenAt('alpha', { command: 'quit' }, () => written('alpha'))).toBe('DONE');
  });
});

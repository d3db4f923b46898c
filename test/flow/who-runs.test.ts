import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectAgent } from '../../src/rpc/client.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { migrate } from '../support/fleet.js';

// Each test goes on where the one before it ended.
describe('asking any host who runs a domain that has moved twice', () => {
  let hosts: FakeFleet;
  beforeAll(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta', 'gamma']);
    const qemu = await hosts.run('alpha', 'web');
    await hosts.writes(qemu, 1);
    expect(await migrate(hosts.host('alpha'), 'web', 'beta')).toMatchObject({
      state: 'STATE_SUCCEEDED',
    });
    expect(await migrate(hosts.host('beta'), 'web', 'gamma')).toMatchObject({
      state: 'STATE_SUCCEEDED',
    });
  });
  afterAll(() => hosts[Symbol.asyncDispose]());

  const ask = async (host: string, domain = 'web') => {
    const { ownership } = await hosts.host(host).client.domains.whoRuns({ domain });
    return ownership;
  };

  it('the tombstones lead to it', async () => {
    const ownership = await ask('alpha');
    expect(ownership).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'gamma',
      epoch: 1,
      generation: 3,
      state: 'STATE_RUNNING',
      contradictions: [],
    });
    expect(ownership?.statements.map(({ host }) => host)).toEqual(['alpha', 'beta', 'gamma']);
    expect(ownership?.statements).toMatchObject([
      { ownerHost: 'beta', generation: 2, record: 'DONE', side: 'SIDE_SOURCE' },
      { ownerHost: 'gamma', generation: 3, record: 'DONE', side: 'SIDE_SOURCE' },
      { ownerHost: 'gamma', generation: 3, side: 'SIDE_DESTINATION', peerHost: 'beta' },
    ]);
    for (const host of ['beta', 'gamma']) {
      expect(await ask(host, ownership?.domainUuid)).toMatchObject({ ownerHost: 'gamma' });
    }
  });

  it('the same after all agents have restarted: it is in writing', async () => {
    for (const name of ['alpha', 'beta', 'gamma']) {
      await hosts.host(name).stop();
      await hosts.host(name).start();
    }
    expect(await ask('alpha')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'gamma',
      generation: 3,
      contradictions: [],
    });
  });

  it('a host may ask with its own certificate', async () => {
    const { config } = hosts.host('alpha');
    using agent = connectAgent({ address: config.listen.address, tls: config.tls });
    const { ownership } = await agent.domains.whoRuns({ domain: 'web' });
    expect(ownership).toMatchObject({ ownerHost: 'gamma' });
  });

  it('a question that has been everywhere is answered by what the host knows itself', async () => {
    const { client } = hosts.host('alpha');
    const askedHosts = ['beta', 'gamma'];
    const { ownership } = await client.domains.whoRuns({ domain: 'web', askedHosts });
    expect(ownership).toMatchObject({ certainty: 'CERTAINTY_REPORTED', ownerHost: 'beta' });
    const tooMany = Array.from({ length: 9 }, (_, i) => `host-${i}`);
    await expect(
      client.domains.whoRuns({ domain: 'web', askedHosts: tooMany }),
    ).rejects.toMatchObject({ reason: 'REQUEST_INVALID' });
    await expect(client.domains.whoRuns({ domain: 'nothing' })).rejects.toMatchObject({
      reason: 'DOMAIN_NOT_FOUND',
    });
  });

  it('where the owner does not answer, who said last that it has it, and when', async () => {
    await hosts.host('gamma').stop();
    const ownership = await ask('alpha');
    expect(ownership).toMatchObject({
      certainty: 'CERTAINTY_REPORTED',
      ownerHost: 'gamma',
      generation: 3,
      state: 'STATE_UNSPECIFIED',
      explanation: expect.stringMatching(/^beta said on .*T.*gamma does not answer now/),
      toSettle: expect.stringMatching(/gamma/),
    });
    expect(ownership?.statements.at(-1)).toMatchObject({ host: 'gamma', answered: false });
    await hosts.host('beta').stop();
    expect(await ask('alpha')).toMatchObject({
      certainty: 'CERTAINTY_REPORTED',
      ownerHost: 'beta',
    });
  });

  it('where the owner has lost what it had in writing, nobody is named', async () => {
    const { state } = hosts.host('gamma').config.directories;
    for (const folder of ['domains', 'journal']) {
      await rm(join(state, folder), { recursive: true });
    }
    await hosts.host('beta').start();
    await hosts.host('gamma').start();
    expect(await ask('alpha')).toMatchObject({
      certainty: 'CERTAINTY_UNKNOWN',
      ownerHost: '',
      explanation: expect.stringMatching(/But gamma does not know it/),
    });
  });
});

import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import {
  type FakeAgent,
  fakeHeader,
  patiently,
  peersOf,
  startFakeAgent,
} from '../support/fake-agent.js';
import { StrangerStage } from '../support/stranger-stage.js';

let stage: StrangerStage;
beforeEach(async () => {
  stage = await StrangerStage.open();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

describe('a prepare of a host for what is not its own', () => {
  let fake: FakeAgent | undefined;
  afterEach(async () => {
    await fake?.[Symbol.asyncDispose]();
    fake = undefined;
  });

  /** From now on host-c confirms whatever it is asked for. */
  async function confirmEverything(): Promise<void> {
    const { listen, tls } = stage.host('host-c').config;
    await stage.host('host-c').stop();
    const state = { record: 'STARTED', rank: { epoch: 1, generation: 1 }, journalId: 'x' } as const;
    fake = await startFakeAgent(tls, {
      address: listen.address,
      peer: { queryMigration: async () => ({ ...state, failure: undefined }) },
    });
  }

  const journalsOn = async (host: string, uuid: string) =>
    await readdir(join(stage.host(host).config.directories.state, 'journal', uuid)).catch(() => []);

  it('writes nothing of a domain that lives here, and keeps nobody from moving it', async () => {
    const { migrationId, launchSpec } = await stage.moveUntilExport();
    await stage.finish(migrationId);
    await confirmEverything();
    const { uuid } = launchSpec.spec;
    const before = await journalsOn('host-b', uuid);
    const header = fakeHeader({
      sourceHost: 'host-c',
      destinationHost: 'host-b',
      domainUuid: uuid,
      epoch: 1000,
      generation: 1000,
    });
    await expect(
      stage.stranger.calls('host-b').prepare(header, launchSpec, patiently()),
    ).rejects.toMatchObject({ reason: 'DOMAIN_EXISTS', side: 'destination' });
    expect(await journalsOn('host-b', uuid)).toEqual(before);
    const { ownership } = await stage.host('host-b').client.domains.whoRuns({ domain: 'web' });
    expect(ownership).toMatchObject({ ownerHost: 'host-b' });
    await stage.move('host-b', 'host-a');
  });

  it('is refused where its header and its launch spec are of two domains', async () => {
    const { migrationId, launchSpec } = await stage.moveUntilExport();
    await confirmEverything();
    const domainUuid = randomUUID();
    const header = fakeHeader({ sourceHost: 'host-c', destinationHost: 'host-b', domainUuid });
    await expect(
      stage.stranger.calls('host-b').prepare(header, launchSpec, patiently()),
    ).rejects.toMatchObject({ reason: 'REQUEST_INVALID' });
    expect(await journalsOn('host-b', domainUuid)).toEqual([]);
    await stage.finish(migrationId);
  });

  it('does not learn of whom a domain is that is coming already, and changes nothing', async () => {
    const { migrationId, launchSpec } = await stage.moveUntilExport();
    await confirmEverything();
    const domainUuid = launchSpec.spec.uuid;
    const header = fakeHeader({ sourceHost: 'host-c', destinationHost: 'host-b', domainUuid });
    const error = await stage.stranger
      .calls('host-b')
      .prepare(header, launchSpec, patiently())
      .catch((e) => e);
    expect(error).toMatchObject({ reason: 'ALREADY_MIGRATING' });
    expect(JSON.stringify([error.message, error.facts])).not.toMatch(migrationId);
    await stage.finish(migrationId);
  });

  it('is refused without a trace where the host is not among the peers', async () => {
    const { migrationId, launchSpec } = await stage.moveUntilExport();
    const tls = await stage.fleet.fleet.certificates.host('host-x');
    using outsider = peersOf('host-x', tls, {
      'host-b': stage.host('host-b').config.listen.address,
    });
    const domainUuid = randomUUID();
    const header = fakeHeader({ sourceHost: 'host-x', destinationHost: 'host-b', domainUuid });
    const spec = { ...launchSpec.spec, name: 'other', uuid: domainUuid };
    await expect(
      outsider.calls('host-b').prepare(header, { ...launchSpec, spec }, patiently()),
    ).rejects.toMatchObject({ reason: 'PEER_NOT_FOUND' });
    expect(await journalsOn('host-b', domainUuid)).toEqual([]);
    await stage.finish(migrationId);
  });

  it('does not make a host say later that a domain is not where it is', async () => {
    await confirmEverything();
    await stage.fleet.run('host-a', 'web');
    stage.letGo();
    const launchSpec = await specLike({});
    const domainUuid = launchSpec.spec.uuid;
    const rank = { epoch: 1000, generation: 1000 };
    const header = fakeHeader({
      sourceHost: 'host-c',
      destinationHost: 'host-b',
      domainUuid,
      ...rank,
    });
    const { journalId } = await stage.stranger
      .calls('host-b')
      .prepare(header, launchSpec, patiently());
    await stage.stranger
      .calls('host-b')
      .abort({ ...header, destinationJournalId: journalId }, patiently());
    await stage.move('host-a', 'host-b');
    const { ownership } = await stage.host('host-b').client.domains.whoRuns({ domain: 'web' });
    expect(ownership?.ownerHost).toBe('host-b');
  });

  it('does not keep the id of a migration that its own agent does not know', async () => {
    await stage.fleet.run('host-a', 'web');
    const migrationId = randomUUID();
    stage.letGo();
    const header = fakeHeader({ migrationId, sourceHost: 'host-c', destinationHost: 'host-b' });
    const spec = { name: 'other', uuid: header.domainUuid } as LaunchSpec['spec'];
    const launchSpec = await specLike(spec);
    await expect(
      stage.stranger.calls('host-b').prepare(header, launchSpec, patiently()),
    ).rejects.toMatchObject({ reason: 'PEER_LOST' });
    await stage.move('host-a', 'host-b', migrationId);
  });

  /** A launch spec that can be sent, of another domain than `web`. */
  async function specLike(changes: Partial<LaunchSpec['spec']>): Promise<LaunchSpec> {
    await stage.move('host-a', 'host-b');
    await stage.move('host-b', 'host-a');
    const { launchSpec } = stage.asked;
    return { ...launchSpec, spec: { ...launchSpec.spec, ...changes } };
  }
});

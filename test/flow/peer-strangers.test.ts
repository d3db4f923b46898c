import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { NO_RECORD, type PeerHeader } from '../../src/migration/peer.js';
import { patiently } from '../support/fake-agent.js';
import { StrangerStage } from '../support/stranger-stage.js';

const DENIED = { reason: 'PERMISSION_DENIED' };
const RUNS = { record: 'RUNNING', rank: { epoch: 9, generation: 9 }, failure: undefined } as const;

let stage: StrangerStage;
beforeEach(async () => {
  stage = await StrangerStage.open();
});
afterEach(() => stage?.[Symbol.asyncDispose]());

/** Everything that host-c can say of a migration, as its source and as its destination. */
async function expectAllDenied(header: PeerHeader, launchSpec: LaunchSpec): Promise<void> {
  const wait = patiently();
  for (const host of ['host-a', 'host-b']) {
    const calls = stage.stranger.calls(host);
    const from = { ...header, sourceHost: 'host-c', destinationHost: host };
    const to = { ...header, sourceHost: host, destinationHost: 'host-c' };
    const elsewhere = { ...header, sourceHost: 'host-c', destinationHost: 'host-z' };
    const attempts: Record<string, () => Promise<unknown>> = {
      prepare: () => calls.prepare(from, launchSpec, wait),
      probeData: () => calls.probeData(from, wait),
      exportDisks: () => calls.exportDisks(from, 'direct', wait),
      acceptRam: () => calls.acceptRam(from, 'direct', wait),
      shareIngress: () => calls.shareIngress(from, { weight: 100, wantRamTurn: true }, wait),
      awaitLoaded: () => calls.awaitLoaded(from, wait),
      commit: () => calls.commit(from, { paused: false }, wait),
      revoke: () => calls.revoke(from, wait),
      abort: () => calls.abort(from, wait),
      sourceGone: () => calls.sourceGone(from, wait),
      'query as source': () => calls.queryMigration(from, NO_RECORD, wait),
      'query as destination': () =>
        calls.queryMigration(to, { ...RUNS, journalId: header.destinationJournalId }, wait),
      'the true header': () => calls.queryMigration(header, NO_RECORD, wait),
      'abort with the true header': () => calls.abort(header, wait),
      'abort for another host': () => calls.abort(elsewhere, wait),
      'query for another host': () => calls.queryMigration(elsewhere, NO_RECORD, wait),
      'source gone for another host': () => calls.sourceGone(elsewhere, wait),
    };
    for (const [what, attempt] of Object.entries(attempts)) {
      await expect(attempt(), `${what} at ${host}`).rejects.toMatchObject(DENIED);
    }
  }
}

describe('a host that takes no part in a migration', () => {
  it('may neither touch nor read it, while it goes on and when it has ended', async () => {
    const { migrationId, header, launchSpec } = await stage.moveUntilExport();
    await expectAllDenied(header, launchSpec);
    await stage.finish(migrationId);
    await expectAllDenied(header, launchSpec);
    for (const name of ['host-a', 'host-b']) {
      await stage.host(name).stop();
      await stage.host(name).start();
    }
    await expectAllDenied(header, launchSpec);
    await expect(
      stage.host('host-b').client.domains.getDomain({ domain: 'web' }),
    ).resolves.toMatchObject({ domain: { ownerHost: 'host-b' } });
  });

  it('learns nothing of it by the error that it gets', async () => {
    const { migrationId, header } = await stage.moveUntilExport();
    const from = { ...header, sourceHost: 'host-c' };
    const error = await stage.stranger
      .calls('host-b')
      .abort(from, patiently())
      .catch((e) => e);
    expect(`${error.message} ${JSON.stringify(error.facts)}`).not.toMatch(/host-a|web|PREPARED/);
    await stage.finish(migrationId);
  });
});

describe('the true destination of a migration', () => {
  it('gets nowhere by saying that it has a guest that was not given up', async () => {
    const { migrationId, header } = await stage.moveUntilExport();
    const liar = await stage.callerAs('host-b');
    const { journalId } = await liar.calls('host-a').queryMigration(header, NO_RECORD, patiently());
    expect(journalId).toBe(header.sourceJournalId);
    for (const record of ['RUNNING', 'OWNED', 'SOURCE_GONE', 'ABORTED', 'SUPERSEDED'] as const) {
      const answer = await liar
        .calls('host-a')
        .queryMigration(header, { ...RUNS, record, journalId: 'any' }, patiently());
      expect(answer.record).toBe('DST_PREPARED');
    }
    liar[Symbol.dispose]();
    const qemu = stage.fleet.launcher('host-a').alive[0];
    if (qemu) await stage.fleet.writes(qemu, 5);
    expect(qemu, 'the source has its QEMU').toBeDefined();
    await stage.finish(migrationId);
  });

  it('gives no orders to the source', async () => {
    const { migrationId, header } = await stage.moveUntilExport();
    const liar = await stage.callerAs('host-b');
    await expect(liar.calls('host-a').abort(header, patiently())).rejects.toMatchObject(DENIED);
    const turned = { ...header, sourceHost: 'host-b', destinationHost: 'host-a' };
    // The other way round there is no such migration.
    expect(await liar.calls('host-a').abort(turned, patiently())).toMatchObject({
      record: 'NONE',
    });
    expect(await liar.calls('host-a').queryMigration(turned, NO_RECORD, patiently())).toMatchObject(
      { record: 'NONE' },
    );
    liar[Symbol.dispose]();
    await stage.finish(migrationId);
  });
});

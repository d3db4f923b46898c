import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { cli } from '../support/cli-stage.js';
import { migrate, watchToEnd } from '../support/fleet.js';
import { InDoubt } from '../support/in-doubt.js';

const RECLAIM = 'ACTION_RECLAIM';
const RELINQUISH = 'ACTION_RELINQUISH';

let doubt: InDoubt;
afterEach(() => doubt[Symbol.asyncDispose]());

/** Asks the agent of a host to resolve the migration. */
function resolve(host: string, action: typeof RECLAIM | typeof RELINQUISH, change: object = {}) {
  const { migrationId } = doubt;
  return doubt.client(host).migrations.resolveMigration({
    migrationId,
    action,
    confirmDomainName: 'web',
    note: 'beta is off',
    ...change,
  });
}

function refusedFor(reason: string, message = /./) {
  return expect.objectContaining({ reason, message: expect.stringMatching(message) });
}

describe('when the destination is gone after the source gave the guest up', () => {
  it('the source says that it is in doubt, and what would settle it', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta();
    const ownership = await doubt.whoRuns('alpha');
    expect(ownership).toMatchObject({
      domainName: 'web',
      certainty: 'CERTAINTY_IN_DOUBT',
      ownerHost: '',
      migrationId: doubt.migrationId,
      contradictions: [],
    });
    const [committed] = (await doubt.entries('alpha', 'source')).filter(
      ({ record }) => record === 'COMMITTED',
    );
    expect(ownership.since?.toISOString()).toBe(committed?.at);
    expect(ownership.explanation).toMatch(/alpha gave it up to beta.*beta does not answer now/);
    expect(ownership.toSettle).toMatch(/drover resolve/);
    expect(ownership.statements).toMatchObject([
      {
        host: 'alpha',
        answered: true,
        known: true,
        certainty: 'CERTAINTY_IN_DOUBT',
        side: 'SIDE_SOURCE',
        record: 'COMMITTED',
        peerHost: 'beta',
        epoch: 1,
        generation: 1,
      },
      { host: 'beta', answered: false, problem: { reason: 'PEER_UNREACHABLE' } },
    ]);
    const shown = await doubt.domain('alpha');
    expect(shown).toMatchObject({
      state: 'STATE_IN_DOUBT',
      doubt: { reason: 'OWNERSHIP_UNKNOWN', message: expect.stringMatching(/given up to beta/) },
    });
    const socket = `unix:${doubt.hosts.host('alpha').config.listen.unix}`;
    const list = await cli(['list', '--agent', socket]);
    expect(list.stdout).toMatch(/web +in doubt .*given up to beta, which has not said yet/);
    const who = await cli(['who-runs', 'web', '--agent', socket]);
    expect(who.exitCode).toBe(5);
    expect(who.stdout).toMatch(
      /web is in doubt\.[\s\S]*beta +does not answer \(PEER_UNREACHABLE\)/,
    );
  });

  it('reclaiming needs the name or a fence, is written with its evidence, and brings the guest back', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta();
    await expect(resolve('alpha', RECLAIM, { confirmDomainName: '' })).rejects.toEqual(
      expect.objectContaining({
        reason: 'FENCE_UNPROVEN',
        hint: expect.stringMatching(/--confirm web.*command that fences/),
      }),
    );
    await expect(resolve('alpha', RECLAIM, { confirmDomainName: 'Web' })).rejects.toEqual(
      refusedFor('REQUEST_INVALID', /"Web" is not the name/),
    );
    await expect(resolve('alpha', RELINQUISH, { confirmDomainName: '' })).rejects.toEqual(
      refusedFor('REQUEST_INVALID', /must be typed/),
    );
    expect(await doubt.records('alpha', 'source')).not.toContain('RESOLVED');
    await doubt.expectStill(doubt.source);

    const socket = `unix:${doubt.hosts.host('alpha').config.listen.unix}`;
    const args = ['resolve', 'web', '--reclaim', '--confirm', 'web', '--note', 'it burnt'];
    const { exitCode, json, stderr } = await cli([...args, '--json', '--agent', socket]);
    expect(stderr).toBe('');
    expect(exitCode).toBe(0);
    const entries = await doubt.entries('alpha', 'source');
    const at = (record: string) => entries.findIndex((entry) => entry.record === record);
    const committed = entries[at('COMMITTED')];
    expect(json()).toMatchObject([
      {
        record: 'RECLAIMED',
        epoch: 2,
        generation: 1,
        evidence: 'EVIDENCE_CONFIRMED_NAME',
        owner_host: 'alpha',
        discarded: [
          {
            host: 'beta',
            what: `every write that the guest made on beta since ${committed?.at}`,
            since: committed?.at,
          },
        ],
      },
    ]);
    expect(at('RESOLVED')).toBeGreaterThan(at('COMMITTED'));
    expect(at('RECLAIMED')).toBeGreaterThan(at('RESOLVED'));
    expect(entries[at('RESOLVED')]).toMatchObject({
      action: 'reclaim',
      caller: 'operator local',
      evidence: 'CONFIRMED_NAME',
      note: 'it burnt',
      peerAnswer: expect.stringMatching(/beta/),
      peerAskedTime: expect.stringMatching(/^\d{4}-/),
    });
    const logged = doubt.hosts.host('alpha').log.filter((line) => line.includes('has resolved'));
    expect(logged).toHaveLength(1);
    expect(logged[0]).toContain('operator local');

    const ended = await watchToEnd(doubt.hosts.host('alpha'), doubt.migrationId);
    expect(ended).toMatchObject({ runningOn: 'RUNNING_ON_SOURCE' });
    await doubt.hosts.writes(doubt.source, 3);
    const domain = await doubt.domain('alpha');
    expect(domain).toMatchObject({ state: 'STATE_RUNNING', epoch: 2, generation: 1 });
    expect(domain.doubt).toBeUndefined();
    expect(await doubt.whoRuns('alpha')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'alpha',
      state: 'STATE_RUNNING',
      epoch: 2,
    });
    await expect(resolve('alpha', RECLAIM)).rejects.toEqual(refusedFor('NOTHING_TO_RESOLVE'));
  });

  it('and comes back after that, it stands down, keeps its images and runs nothing', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta();
    await resolve('alpha', RECLAIM);
    await doubt.hosts.writes(doubt.source, 3);
    doubt.heal();
    await doubt.hosts.host('beta').start();
    await doubt.recorded('beta', 'destination', 'SUPERSEDED');
    await doubt.told('beta', 'OWNERSHIP_LOST');
    expect(await doubt.domain('beta')).toMatchObject({
      state: 'STATE_IN_DOUBT',
      doubt: { reason: 'OWNERSHIP_LOST' },
    });
    expect(await doubt.images('beta')).toHaveLength(2);
    await expect(doubt.client('beta').domains.startDomain({ domain: 'web' })).rejects.toEqual(
      refusedFor('OWNERSHIP_LOST'),
    );
    expect(doubt.hosts.launcher('beta').alive).toEqual([]);
    for (const host of ['alpha', 'beta']) {
      expect(await doubt.whoRuns(host)).toMatchObject({
        certainty: 'CERTAINTY_CERTAIN',
        ownerHost: 'alpha',
        epoch: 2,
        contradictions: [],
      });
    }
    // The word of a person lasts.
    await doubt.hosts.host('beta').stop();
    await doubt.hosts.host('beta').start();
    expect(await doubt.domain('beta')).toMatchObject({ doubt: { reason: 'OWNERSHIP_LOST' } });
  });

  it('a source that has reclaimed asks again after a restart, and a person may say it again', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta();
    await resolve('alpha', RECLAIM);
    await doubt.hosts.writes(doubt.source, 2);
    await doubt.hosts.host('alpha').stop();
    await doubt.hosts.host('alpha').start();
    // A guest that runs goes on; nothing is started before the other side, or a person, has spoken.
    await doubt.hosts.writes(doubt.source, 2);
    expect(await doubt.whoRuns('alpha')).toMatchObject({ certainty: 'CERTAINTY_IN_DOUBT' });
    await expect(resolve('alpha', RELINQUISH)).rejects.toEqual(refusedFor('NOTHING_TO_RESOLVE'));
    expect(await resolve('alpha', RECLAIM)).toMatchObject({ record: 'RECLAIMED', epoch: 4 });
    expect(await doubt.whoRuns('alpha')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'alpha',
    });
    await doubt.hosts.host('alpha').stop();
    await doubt.hosts.host('alpha').start();
    doubt.heal();
    await doubt.hosts.host('beta').start();
    await doubt.recorded('beta', 'destination', 'SUPERSEDED');
    await vi.waitFor(
      async () =>
        expect(await doubt.whoRuns('alpha')).toMatchObject({
          certainty: 'CERTAINTY_CERTAIN',
          ownerHost: 'alpha',
          state: 'STATE_RUNNING',
        }),
      { timeout: 15_000, interval: 100 },
    );
    expect((await doubt.domain('alpha')).doubt).toBeUndefined();
    await doubt.hosts.writes(doubt.source, 2);
  }, 40_000);

  it('relinquishing at the source makes its images the tombstone, and the destination goes on when it is back', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta('agent');
    const answer = await resolve('alpha', RELINQUISH);
    expect(answer).toMatchObject({ record: 'DONE', epoch: 1, ownerHost: 'beta' });
    expect(answer.discarded.map(({ host }) => host)).toEqual(['alpha', 'alpha']);
    await watchToEnd(doubt.hosts.host('alpha'), doubt.migrationId);
    expect(await doubt.whoRuns('alpha')).toMatchObject({
      certainty: 'CERTAINTY_REPORTED',
      ownerHost: 'beta',
    });
    doubt.heal();
    await doubt.hosts.host('beta').start();
    await doubt.recorded('beta', 'destination', 'SOURCE_GONE');
    await doubt.hosts.writes(doubt.destination, 3);
    expect(await doubt.whoRuns('alpha')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'beta',
      state: 'STATE_RUNNING',
    });
    expect(await doubt.domain('alpha')).toMatchObject({ state: 'STATE_MOVED' });
  });
});

describe('a destination that has restarted and cannot ask its source', () => {
  /** alpha is gone, and beta has lost QEMU and agent for a while. */
  async function open(): Promise<void> {
    doubt = await InDoubt.open();
    await doubt.loseBeta();
    await doubt.hosts.host('alpha').stop();
    await doubt.hosts.host('beta').start();
  }

  it("is in doubt, starts nothing, and may by a person's word", async () => {
    await open();
    expect(await doubt.whoRuns('beta')).toMatchObject({
      certainty: 'CERTAINTY_IN_DOUBT',
      ownerHost: '',
      toSettle: expect.stringMatching(/alpha.*drover resolve.*on beta/),
    });
    const start = () => doubt.client('beta').domains.startDomain({ domain: 'web' });
    await expect(start()).rejects.toEqual(refusedFor('OWNERSHIP_UNKNOWN'));
    const answer = await resolve('beta', RECLAIM);
    // By two, so that it counts more than a word on the source's side.
    expect(answer).toMatchObject({ record: 'RUNNING', epoch: 3, generation: 2, ownerHost: 'beta' });
    expect(answer.discarded[0]?.what).toMatch(/made on alpha/);
    await start();
    const restarted = doubt.hosts.launcher('beta').alive.at(-1);
    await doubt.hosts.writes(restarted as NonNullable<typeof restarted>, 2);
    expect(await doubt.domain('beta')).toMatchObject({ state: 'STATE_RUNNING', epoch: 3 });
    // The source hears it and lets go.
    doubt.heal();
    await doubt.hosts.host('alpha').start();
    await doubt.recorded('alpha', 'source', 'DONE');
    expect(await doubt.whoRuns('alpha')).toMatchObject({ ownerHost: 'beta', epoch: 3 });
  });

  it("gives the guest back by a person's word, and the source runs it when it is back", async () => {
    await open();
    const answer = await resolve('beta', RELINQUISH);
    expect(answer).toMatchObject({ record: 'SUPERSEDED', ownerHost: 'alpha' });
    expect(await doubt.images('beta')).toHaveLength(2);
    doubt.heal();
    await doubt.hosts.host('alpha').start();
    await doubt.recorded('alpha', 'source', 'RECLAIMED');
    await doubt.hosts.writes(doubt.source, 3);
    expect(await doubt.whoRuns('beta')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'alpha',
    });
  });

  it('stops a guest that runs before it writes that it gives it back', async () => {
    doubt = await InDoubt.open();
    await doubt.loseBeta('agent');
    await doubt.hosts.host('alpha').stop();
    await doubt.hosts.host('beta').start();
    await doubt.hosts.writes(doubt.destination, 2);
    await resolve('beta', RELINQUISH);
    await doubt.expectStill(doubt.destination);
    expect(await doubt.records('beta', 'destination')).toContain('SUPERSEDED');
  });
});

describe('the alarm', () => {
  it('comes after 15 s: in the watch, in the log and in the lists', async () => {
    doubt = await InDoubt.open();
    const { migrationId } = doubt;
    const { client, log, config } = doubt.hosts.host('alpha');
    await doubt.loseBeta();
    const answers = client.migrations.watchMigration({ migrationId });
    for await (const { migration } of answers) {
      if (migration?.state !== 'STATE_IN_DOUBT') continue;
      expect(migration).toMatchObject({
        runningOn: 'RUNNING_ON_UNKNOWN',
        failure: { reason: 'OWNERSHIP_UNKNOWN' },
      });
      break;
    }
    const alarms = log.filter((line) => line.includes('the migration is in doubt'));
    expect(alarms).toHaveLength(1);
    expect(alarms[0]).toContain('"level":"error"');
    const socket = `unix:${config.listen.unix}`;
    const { stdout } = await cli(['migrations', '--agent', socket]);
    expect(stdout).toMatch(/ in doubt /);
    expect(stdout).toMatch(/web is in doubt: beta has not answered .*drover who-runs web/);
    expect(await doubt.records('alpha', 'source')).toContain('IN_DOUBT');
  }, 40_000);
});

describe('a fence that was none', () => {
  it('is a contradiction, and the destination pauses its guest and alarms when it hears of it', async () => {
    doubt = await InDoubt.open();
    // The agents' control link is cut; beta runs the guest and can be asked who does.
    expect(await doubt.whoRuns('alpha')).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'beta',
      state: 'STATE_RUNNING',
    });
    await resolve('alpha', RECLAIM);
    await doubt.hosts.writes(doubt.source, 2);
    const ownership = await doubt.whoRuns('alpha');
    expect(ownership).toMatchObject({
      certainty: 'CERTAINTY_CERTAIN',
      ownerHost: 'alpha',
      epoch: 2,
      contradictions: [{ host: 'beta' }],
    });
    expect(ownership.contradictions[0]?.explanation).toMatch(/runs it, by the older copy 1\.2/);
    expect((await doubt.whoRuns('beta')).contradictions).toMatchObject([{ host: 'beta' }]);

    doubt.heal();
    await doubt.recorded('beta', 'destination', 'SUPERSEDED');
    await doubt.told('beta', 'OWNERSHIP_LOST');
    await doubt.expectStill(doubt.destination);
    expect(doubt.destination.alive).toBe(true);
    expect(await doubt.domain('beta')).toMatchObject({
      state: 'STATE_IN_DOUBT',
      doubt: { reason: 'OWNERSHIP_LOST' },
    });
    expect(await doubt.images('beta')).toHaveLength(2);
    const alarms = doubt.hosts.host('beta').log.filter((line) => line.includes('"level":"error"'));
    expect(alarms.join('\n')).toMatch(/another host has the guest/);
    const { migrations } = await doubt.client('beta').migrations.listMigrations({});
    expect(migrations).toMatchObject([
      {
        state: 'STATE_FAILED',
        runningOn: 'RUNNING_ON_SOURCE',
        failure: { reason: 'OWNERSHIP_LOST' },
      },
    ]);
    await doubt.hosts.writes(doubt.source, 2);
    expect((await doubt.whoRuns('beta')).contradictions).toEqual([]);

    // Whoever has looked at the old copy removes it, and the domain may come again.
    const { domains } = doubt.client('beta');
    await expect(domains.stopDomain({ domain: 'web' })).rejects.toEqual(
      refusedFor('OWNERSHIP_LOST'),
    );
    await domains.stopDomain({ domain: 'web', force: true });
    await domains.deleteDomain({ domain: 'web' });
    const again = await migrate(doubt.hosts.host('alpha'), 'web', 'beta');
    expect(again).toMatchObject({ state: 'STATE_SUCCEEDED' });
    await doubt.hosts.host('beta').stop();
    await doubt.hosts.host('beta').start();
    const domain = await doubt.domain('beta');
    expect(domain).toMatchObject({ state: 'STATE_RUNNING', epoch: 2, generation: 2 });
    expect(domain.doubt).toBeUndefined();
  });
});

describe('a migration that needs no word', () => {
  it('is not resolved while the other side answers', async () => {
    doubt = await InDoubt.open();
    doubt.link.cut = false;
    await expect(resolve('alpha', RECLAIM)).rejects.toEqual(
      refusedFor('NOTHING_TO_RESOLVE', /beta says RUNNING \(1\.2\)/),
    );
    doubt.heal();
    await watchToEnd(doubt.hosts.host('alpha'), doubt.migrationId);
    for (const host of ['alpha', 'beta']) {
      await expect(resolve(host, RECLAIM)).rejects.toEqual(refusedFor('NOTHING_TO_RESOLVE'));
    }
    expect(await doubt.records('alpha', 'source')).not.toContain('RESOLVED');
    const other = { migrationId: '00000000-0000-4000-8000-000000000000' };
    await expect(resolve('alpha', RECLAIM, other)).rejects.toEqual(
      refusedFor('MIGRATION_NOT_FOUND'),
    );
    await expect(resolve('alpha', 'ACTION_UNSPECIFIED' as typeof RECLAIM)).rejects.toEqual(
      refusedFor('REQUEST_INVALID'),
    );
  });
});

describe('a configured fence command', () => {
  /** Runs a script with the words of the configuration before what the agent adds. */
  async function open(script: string): Promise<void> {
    const fence = { command: '/bin/sh', arguments: ['-c', script, 'fence'], limitMs: 5_000 };
    doubt = await InDoubt.open({ fence });
    await doubt.loseBeta();
  }

  it('is run for a reclaim without a name, with host and migration, and proves the fence', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'drover-fence-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const path = join(folder, 'fenced');
    await open(`echo "$1 $2 $DROVER_PEER_HOST $DROVER_DOMAIN_NAME" >> ${path}`);
    const answer = await resolve('alpha', RECLAIM, { confirmDomainName: '' });
    expect(answer).toMatchObject({ record: 'RECLAIMED', evidence: 'EVIDENCE_FENCE_COMMAND' });
    expect(await readFile(path, 'utf8')).toBe(`beta ${doubt.migrationId} beta web\n`);
    const entries = await doubt.entries('alpha', 'source');
    expect(entries.find(({ record }) => record === 'RESOLVED')).toMatchObject({
      evidence: 'FENCE_COMMAND',
    });
    await doubt.hosts.writes(doubt.source, 2);
  });

  it('that fails leaves the migration in doubt', async () => {
    await open('echo "no such outlet" >&2; exit 3');
    await expect(resolve('alpha', RECLAIM, { confirmDomainName: '' })).rejects.toEqual(
      refusedFor('FENCE_UNPROVEN', /exit code 3: no such outlet/),
    );
    expect(await doubt.records('alpha', 'source')).not.toContain('RESOLVED');
    expect(await doubt.whoRuns('alpha')).toMatchObject({ certainty: 'CERTAINTY_IN_DOUBT' });
    // Whoever stands before the other host may still say so.
    expect(await resolve('alpha', RECLAIM)).toMatchObject({ evidence: 'EVIDENCE_CONFIRMED_NAME' });
  });
});

import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { acceptState } from '../../src/agent/offline.js';
import { AuditEvent } from '../../src/gen/drover/v1/audit.js';
import { type AgentClient, connectAgent } from '../../src/rpc/client.js';
import { identityUri } from '../support/certificates.js';
import { cli, startFakeServices } from '../support/cli-stage.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { refuse } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { callRaw, rawClient } from '../support/raw-grpc.js';

const START = '/drover.v1.MigrationService/StartMigration';

describe('what a host puts on record', () => {
  let hosts: FakeFleet;
  beforeAll(async () => {
    hosts = await FakeFleet.start(['alpha', 'beta']);
  });
  afterAll(() => hosts[Symbol.asyncDispose]());

  async function as(role: 'operator' | 'host', name: string, host: string): Promise<AgentClient> {
    const tls = await hosts.fleet.certificates[role](name);
    const client = connectAgent({ address: hosts.host(host).config.listen.address, tls });
    onTestFinished(() => client[Symbol.dispose]());
    return client;
  }

  async function recorded(host: string, request: Parameters<typeof AuditEvent.fromPartial>[0]) {
    const query = { caller: '', action: '', subject: '', ...request } as const;
    const { client } = hosts.host(host);
    const answer = await client.hosts.listAuditEvents({ pageSize: 1000, ...(query as object) });
    return answer.events;
  }

  it('has every step of a migration on both sides, with who asked and what became of it', async () => {
    await hosts.run('alpha', 'web');
    const { migrationId, state } = await migrate(hosts.host('alpha'), 'web', 'beta');
    expect(state).toBe('STATE_SUCCEEDED');
    expect(await recorded('alpha', { action: 'StartMigration' })).toMatchObject([
      {
        caller: 'operator/test',
        action: START,
        decision: 'DECISION_ALLOWED',
        reason: 'OK',
        subject: migrationId,
        message: 'domain: web, destinationHost: beta',
      },
    ]);
    const there = await recorded('beta', { caller: 'host/alpha', subject: migrationId });
    const steps = there.map(({ action }) => action.replace('/drover.v1.PeerService/', ''));
    const begin = ['Prepare', 'ProbeData', 'ExportDisks', 'AcceptRam'];
    expect(steps.toReversed().slice(0, 4)).toEqual(begin);
    expect(new Set(steps)).toEqual(new Set([...begin, 'AwaitLoaded', 'Commit', 'SourceGone']));
    expect(new Set(there.map(({ reason }) => reason))).toEqual(new Set(['OK']));
  });

  it('has how each migration ended on every host that took part, and why', async () => {
    await hosts.run('alpha', 'ends');
    const at = { command: 'blockdev-mirror' };
    hosts.launcher('alpha').faults.add({ at, action: refuse('no') });
    const failed = await migrate(hosts.host('alpha'), 'ends', 'beta');
    const moved = await migrate(hosts.host('alpha'), 'ends', 'beta');
    const arrow = 'ends alpha -> beta';
    const gaveUp = `${arrow}: CANCELLED: The source gave the migration up.`;
    for (const [host, reason, message] of [
      ['alpha', 'QEMU_ERROR', expect.stringContaining(`${arrow}: FAILED: `)],
      ['beta', 'CANCELLED_BY', gaveUp],
    ] as const) {
      const ends = (subject: string) => recorded(host, { action: 'MIGRATION_ENDED', subject });
      const event = { caller: `host/${host}`, decision: 'DECISION_EVENT' };
      const good = { ...event, reason: 'OK', message: `${arrow}: SUCCEEDED` };
      await expect.poll(() => ends(moved.migrationId)).toMatchObject([good]);
      await expect
        .poll(() => ends(failed.migrationId))
        .toMatchObject([{ ...event, reason, message }]);
    }
    expect(await recorded('alpha', { subject: failed.migrationId })).toMatchObject([
      { action: 'MIGRATION_ENDED', reason: 'QEMU_ERROR' },
      { action: START, reason: 'OK' },
    ]);
  });

  it('leaves out what only reads, and has the failures of what does not', async () => {
    const client = await as('operator', 'reader', 'alpha');
    await client.domains.listDomains({});
    await client.hosts.getHost({});
    await client.migrations.getMigration({ migrationId: randomUUID() }).catch(() => undefined);
    await client.migrations.cancelMigration({ migrationId: 'nothing' }).catch(() => undefined);
    await client.domains.startDomain({ domain: 'nobody' }).catch(() => undefined);
    expect(await recorded('alpha', { caller: 'operator/reader' })).toMatchObject([
      { subject: 'nobody', reason: 'DOMAIN_NOT_FOUND', decision: 'DECISION_ALLOWED' },
      { subject: 'nothing', reason: 'MIGRATION_NOT_FOUND', decision: 'DECISION_ALLOWED' },
    ]);
  });

  it('has what was denied, reads too', async () => {
    const client = await as('host', 'beta', 'alpha');
    await expect(client.domains.listDomains({})).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
    await expect(client.domains.deleteDomain({ domain: 'web\n"forged"' })).rejects.toMatchObject({
      reason: 'PERMISSION_DENIED',
    });
    expect(
      await recorded('alpha', { caller: 'host/beta', decision: 'DECISION_DENIED' }),
    ).toMatchObject([
      { action: '/drover.v1.DomainService/DeleteDomain', subject: 'web "forged"' },
      { action: '/drover.v1.DomainService/ListDomains', reason: 'PERMISSION_DENIED' },
    ]);
  });

  it('has callers that are refused by their certificate, with their address', async () => {
    const { certificates } = hosts.fleet;
    const uris = [identityUri('host', 'beta'), identityUri('operator', 'mallory')];
    const files = await certificates.leaf('two-names', { commonName: 'x', uris });
    const client = rawClient(hosts.host('alpha').config.listen.address, files);
    await callRaw(client, '/drover.v1.HostService/GetHost', 'unary', { sends: true });
    client.close();
    expect(await recorded('alpha', { caller: '127.0.0.1' })).toMatchObject([
      {
        action: '/drover.v1.HostService/GetHost',
        decision: 'DECISION_DENIED',
        reason: 'PERMISSION_DENIED',
        message: expect.stringContaining('2 URIs'),
      },
    ]);
  });

  it('pages through more than one answer holds, and refuses a page that is none', async () => {
    const client = await as('operator', 'pager', 'beta');
    for (let i = 0; i < 7; i++) {
      await client.domains.startDomain({ domain: `no${i}` }).catch(() => undefined);
    }
    const query = { caller: 'operator/pager', pageSize: 3 };
    const subjects: string[] = [];
    let pageToken = '';
    let pages = 0;
    do {
      const answer = await client.hosts.listAuditEvents({ ...query, pageToken });
      subjects.push(...answer.events.map(({ subject }) => subject));
      pageToken = answer.nextPageToken;
      pages++;
    } while (pageToken !== '');
    expect([pages, subjects]).toEqual([3, ['no6', 'no5', 'no4', 'no3', 'no2', 'no1', 'no0']]);
    for (const wrong of [{ pageSize: 1001 }, { pageToken: 'x' }, { pageToken: '-1' }]) {
      await expect(client.hosts.listAuditEvents(wrong)).rejects.toMatchObject({
        reason: 'REQUEST_INVALID',
      });
    }
  });

  it('has it all again after a restart, with the restart and what was done meanwhile', async () => {
    const alpha = hosts.host('alpha');
    const before = await recorded('alpha', { action: 'StartMigration' });
    const ends = await recorded('alpha', { action: 'MIGRATION_ENDED' });
    expect(ends).not.toEqual([]);
    await alpha.stop();
    const file = join(alpha.config.directories.state, '..', 'agent.yaml');
    const { certificate, key, ca } = alpha.config.tls;
    const { writeFile } = await import('node:fs/promises');
    await writeFile(
      file,
      `host: alpha
tls: {certificate: ${certificate}, key: ${key}, ca: ${ca}}
data: {address: 127.0.0.1}
directories: {state: ${alpha.config.directories.state}}
`,
    );
    await acceptState(file, 'alpha');
    await alpha.start();
    expect(await recorded('alpha', { action: 'StartMigration' })).toEqual(before);
    expect(await recorded('alpha', { action: 'MIGRATION_ENDED' })).toEqual(ends);
    const events = await recorded('alpha', { decision: 'DECISION_EVENT' });
    const others = events.filter(({ action }) => action !== 'MIGRATION_ENDED');
    expect(others.map(({ action, caller }) => [action, caller.split('/')[0]])).toEqual([
      ['AGENT_STARTED', 'host'],
      ['STATE_ACCEPTED', 'operator'],
      ['AGENT_STOPPED', 'host'],
      ['AGENT_STARTED', 'host'],
    ]);
  });

  it('is in the log as well, and holds no secret', async () => {
    const beta = hosts.host('beta');
    const lines = beta.log.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toContainEqual(
      expect.objectContaining({
        audit: true,
        caller: 'host/alpha',
        action: '/drover.v1.PeerService/Commit',
        reason: 'OK',
        level: 'info',
      }),
    );
    await beta.stop();
    const text = await readFile(join(beta.config.directories.state, 'audit/calls.jsonl'), 'utf8');
    // The shapes of a ticket and of a key: 32 bytes in base64url, and in hex.
    expect(text).not.toMatch(/[\w-]{43}=?"|[0-9a-f]{64}/);
    await beta.start();
  });
});

describe('drover audit', () => {
  it('prints a table with the newest last, asks for as many pages as it takes, and prints JSON', async () => {
    const events = Array.from({ length: 3 }, (_, i) =>
      AuditEvent.fromPartial({
        sequence: 3 - i,
        time: new Date(Date.UTC(2026, 0, 1, 12, 0, 3 - i)),
        caller: 'operator/alice',
        action: START,
        decision: i === 0 ? 'DECISION_DENIED' : 'DECISION_ALLOWED',
        reason: i === 0 ? 'PERMISSION_DENIED' : 'OK',
        subject: `web${i}`,
        message: i === 0 ? 'It is for others.' : '',
      }),
    );
    const asked: unknown[] = [];
    const server = await startFakeServices({
      hosts: {
        listAuditEvents: async (request) => {
          asked.push(request);
          return request.pageToken === ''
            ? { events: events.slice(0, 2), nextPageToken: '2' }
            : { events: events.slice(2), nextPageToken: '' };
        },
      },
    });
    onTestFinished(() => server[Symbol.asyncDispose]());
    const args = ['audit', '--agent', server.address, '--since', '2026-01-01T00:00Z', '--denied'];
    const { stdout, stderr } = await cli(args);
    expect(stderr).toBe('');
    expect(`\n${stdout}`).toMatchInlineSnapshot(`
      "
      TIME                      CALLER          DECISION  ACTION          REASON             SUBJECT  MESSAGE
      2026-01-01T12:00:01.000Z  operator/alice  allowed   StartMigration  OK                 web2
      2026-01-01T12:00:02.000Z  operator/alice  allowed   StartMigration  OK                 web1
      2026-01-01T12:00:03.000Z  operator/alice  denied    StartMigration  PERMISSION_DENIED  web0     It is for others.
      "
    `);
    expect(asked).toMatchObject([
      { pageSize: 50, decision: 'DECISION_DENIED', since: new Date('2026-01-01T00:00Z') },
      { pageSize: 48, pageToken: '2' },
    ]);
    const json = await cli(['audit', '--agent', server.address, '--json', '-n', '2']);
    expect(JSON.parse(json.stdout)).toMatchObject({ events: [{ sequence: 3 }, { sequence: 2 }] });
    expect((await cli(['audit', '--since', 'yesterday'])).exitCode).toBe(2);
  });
});

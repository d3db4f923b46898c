import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { Migration_State } from '../../src/gen/drover/v1/migration.js';
import { NO_RECORD, type PeerHandler, type PeerHeader } from '../../src/migration/peer.js';
import { connectAgent } from '../../src/rpc/client.js';
import type { PeerClients } from '../../src/rpc/peer-directory.js';
import { deferred } from '../../src/util/deferred.js';
import { patiently, peersOf } from '../support/fake-agent.js';
import { FakeFleet } from '../support/fake-fleet.js';
import { watchToEnd } from '../support/fleet.js';
import { attempts, Tally, whileAnswering, wrapped } from '../support/hostile.js';

/*
 * Three hosts of one CA. A domain moves from host-a to host-b. host-c takes no part, its
 * certificate is as good as theirs, and it tries everything in every phase.
 */

const PHASES = ['prepared', 'RAM flowing', 'mirroring', 'voted', 'committed'] as const;
type When = (typeof PHASES)[number];

const tally = new Tally('a stranger');
const lies = new Tally('headers that lie');
afterAll(() => {
  tally.finish();
  lies.finish();
});

let hosts: FakeFleet;
let stranger: PeerClients;
/** What happens when the migration gets there; it waits for it. */
let visit: (when: When) => Promise<void>;
let asked: { header: PeerHeader; launchSpec: LaunchSpec };
let isPrepared: boolean;

beforeEach(async () => {
  visit = async () => undefined;
  isPrepared = false;
  hosts = await FakeFleet.start(['host-a', 'host-b', 'host-c'], {
    parts: (host) => (host === 'host-b' ? { handler: watched } : {}),
  });
  stranger = await callerAs('host-c');
  const once = { when: 'before', incoming: false, action: () => visit('mirroring') } as const;
  hosts.launcher('host-a').faults.add({ at: { command: 'block-job-change' }, ...once });
  hosts.launcher('host-b').faults.add({
    at: { event: 'MIGRATION', status: 'active' },
    incoming: true,
    action: () => visit('RAM flowing'),
  });
});
afterEach(async () => {
  stranger?.[Symbol.dispose]();
  await hosts?.[Symbol.asyncDispose]();
});

/** host-b's half, which lets the test look at the migration while it waits. */
function watched(handler: PeerHandler): PeerHandler {
  return wrapped(handler, {
    prepare: async (header, launchSpec) => {
      const prepared = await handler.prepare(header, launchSpec);
      if (isPrepared) return prepared;
      isPrepared = true;
      asked = { header: { ...header, destinationJournalId: prepared.journalId }, launchSpec };
      await visit('prepared');
      return prepared;
    },
    commit: async (header, guest) => {
      const isTrue = header.sourceHost === 'host-a';
      if (isTrue) await visit('voted');
      const outcome = await handler.commit(header, guest);
      if (isTrue) await visit('committed');
      return outcome;
    },
  });
}

async function callerAs(host: string): Promise<PeerClients> {
  const others = ['host-a', 'host-b', 'host-c'].filter((name) => name !== host);
  const addresses = others.map((name) => [name, hosts.host(name).config.listen.address]);
  return peersOf(host, await hosts.fleet.certificates.host(host), Object.fromEntries(addresses));
}

/** Moves `web` from host-a to host-b, and looks what became of it. */
async function move(): Promise<void> {
  const source = await hosts.run('host-a', 'web');
  const { client } = hosts.host('host-a');
  const request = { domain: 'web', destinationHost: 'host-b' };
  const { migration } = await client.migrations.startMigration(request);
  const ended = await watchToEnd(hosts.host('host-a'), migration?.migrationId ?? '');
  expect(ended.failure).toBeUndefined();
  expect(ended.state).toBe(Migration_State.SUCCEEDED);
  const [arrived] = hosts.launcher('host-b').alive;
  if (!arrived) throw new Error('The guest has not arrived.');
  await hosts.writes(arrived, 3);
  await hosts.judge('web', 'host-b', [source, arrived]);
  await hosts.expectNothingOn('host-c', asked.header.domainUuid);
}

/** What host-c says at one moment, and that it is denied. */
async function tryEverything(when: string): Promise<void> {
  for (const host of ['host-a', 'host-b']) {
    const { header } = asked;
    const claims: Record<string, PeerHeader> = {
      'as they say it': header,
      'as its source': { ...header, sourceHost: 'host-c', destinationHost: host },
      'as its destination': { ...header, sourceHost: host, destinationHost: 'host-c' },
      'as its source for another host': { ...header, sourceHost: 'host-c' },
      'as its destination for another host': { ...header, destinationHost: 'host-c' },
    };
    if (when === 'mirroring' || when === 'ended') {
      claims['of a later attempt'] = { ...header, sourceHost: 'host-c', attempt: 2 };
      claims['of a higher rank'] = { ...header, sourceHost: 'host-c', epoch: 99, generation: 99 };
    }
    for (const [claim, said] of Object.entries(claims)) {
      const tries = attempts(stranger.calls(host), said, asked.launchSpec).map(
        async ([name, call]) => {
          const what = `${when}: ${name} ${claim} at ${host}`;
          expect(await tally.refused(what, call), what).toBe('PERMISSION_DENIED');
        },
      );
      await Promise.all(tries);
    }
  }
  await tryAsCaller(when);
}

/** The certificate of a host does not open the other doors either. */
async function tryAsCaller(when: string): Promise<void> {
  const tls = await hosts.fleet.certificates.host('host-c');
  const { migrationId } = asked.header;
  for (const host of ['host-a', 'host-b']) {
    using client = connectAgent({ address: hosts.host(host).config.listen.address, tls });
    const forbidden: Record<string, () => Promise<unknown>> = {
      get: () => client.migrations.getMigration({ migrationId }),
      list: () => client.migrations.listMigrations({}),
      cancel: () => client.migrations.cancelMigration({ migrationId }),
      stop: () => client.domains.stopDomain({ domain: 'web', force: true }),
      delete: () => client.domains.deleteDomain({ domain: 'web' }),
      audit: () => client.hosts.listAuditEvents({}),
    };
    for (const [name, call] of Object.entries(forbidden)) {
      const what = `${when}: ${name} at ${host}`;
      expect(await tally.refused(what, call), what).toBe('PERMISSION_DENIED');
    }
  }
}

describe('a host that takes no part in a migration', () => {
  it('is denied everything in every phase and after its end, and disturbs nobody', async () => {
    const seen: string[] = [];
    visit = async (when) => {
      if (seen.includes(when)) return;
      seen.push(when);
      await tryEverything(when);
    };
    await whileAnswering(hosts.host('host-b').client, move);
    expect(seen).toEqual([...PHASES]);
    await tryEverything('ended');
    for (const name of ['host-a', 'host-b']) {
      await hosts.host(name).stop();
      await hosts.host(name).start();
    }
    await tryEverything('both have started again');
    await expectOnRecord();
  });
});

/** Denials are on record with who it was, and the migration among what was done. */
async function expectOnRecord(): Promise<void> {
  const { client } = hosts.host('host-b');
  const { events } = await client.hosts.listAuditEvents({ caller: 'host/host-c', pageSize: 100 });
  expect(events.length).toBeGreaterThan(0);
  expect(new Set(events.map(({ decision }) => decision))).toEqual(new Set(['DECISION_DENIED']));
  const honest = await client.hosts.listAuditEvents({ caller: 'host/host-a', pageSize: 100 });
  expect(honest.events.map(({ action }) => action)).toContain('/drover.v1.PeerService/Commit');
}

describe('the source of a migration whose headers lie', () => {
  const CHANGES: readonly [string, Partial<PeerHeader>, string][] = [
    ['another source', { sourceHost: 'host-c' }, 'PERMISSION_DENIED'],
    ['another destination', { destinationHost: 'host-c' }, 'PERMISSION_DENIED'],
    ['itself as destination', { destinationHost: 'host-a' }, 'PERMISSION_DENIED'],
    ['another journal of its own', { sourceJournalId: 'other' }, 'MIGRATION_EXISTS'],
    ['another journal over there', { destinationJournalId: 'other' }, 'MIGRATION_EXISTS'],
    ['another domain', { domainUuid: crypto.randomUUID() }, 'MIGRATION_EXISTS'],
    ['an attempt long after', { attempt: 4_294_967_295 }, 'MIGRATION_EXISTS'],
    ['no attempt at all', { attempt: 0 }, 'REQUEST_INVALID'],
  ];

  it('is refused each call of it, and the true migration goes on', async () => {
    const looked = deferred();
    visit = async (when) => {
      if (when !== 'prepared') return;
      using source = await callerAs('host-a');
      for (const [what, change, reason] of CHANGES) {
        for (const [name, call] of attempts(
          source.calls('host-b'),
          { ...asked.header, ...change },
          asked.launchSpec,
        )) {
          // Giving up is allowed to whoever could have begun, of any attempt; asking harms nobody.
          if (name === 'queryMigration' && reason === 'MIGRATION_EXISTS') continue;
          if (what === 'an attempt long after' && (name === 'abort' || name === 'revoke')) continue;
          // It says which journal it is by the answer only.
          if (name === 'prepare' && what === 'another journal over there') continue;
          const refused = await lies.refused(`${name}: ${what}`, call);
          // So many attempts nobody has, whoever asks.
          const tooMany = name === 'acceptRam' && what === 'an attempt long after';
          expect(refused, `${name}: ${what}`).toBe(tooMany ? 'LIMIT_REACHED' : reason);
        }
      }
      looked.resolve();
    };
    await move();
    await looked.promise;
  });

  it('does not raise the rank of the domain by saying another one half-way', async () => {
    visit = async (when) => {
      if (when !== 'prepared') return;
      using source = await callerAs('host-a');
      const header = { ...asked.header, epoch: 1_000, generation: 1_000 };
      const calls = source.calls('host-b');
      await calls.prepare(header, asked.launchSpec, patiently()).catch(() => undefined);
      await calls.queryMigration(header, NO_RECORD, patiently());
    };
    await move();
    const { domain } = await hosts.host('host-b').client.domains.getDomain({ domain: 'web' });
    const { epoch, generation } = asked.header;
    expect(domain).toMatchObject({ epoch, generation: generation + 1 });
  });

  it('has no more say over a guest that it has given away', async () => {
    await move();
    using former = await callerAs('host-a');
    const [guest] = hosts.launcher('host-b').alive;
    if (!guest) throw new Error('The guest has not arrived.');
    const states = new Set<string>();
    for (const change of [{}, { epoch: 1_000, generation: 1_000 }, { attempt: 2 }]) {
      const calls = former.calls('host-b');
      const header = { ...asked.header, ...change };
      for (const again of [calls.abort, calls.revoke, calls.sourceGone] as const) {
        const said = again.call(calls, header, patiently());
        states.add((await said.catch(({ reason }) => ({ record: reason }))).record);
      }
      const own = { record: 'RECLAIMED', rank: { epoch: 1_000, generation: 1_000 } } as const;
      const state = { ...own, journalId: header.sourceJournalId, failure: undefined };
      states.add((await calls.queryMigration(header, state, patiently())).record);
      const committed = calls.commit(header, { paused: true }, patiently());
      await committed.catch(() => undefined);
    }
    expect([...states].sort()).toEqual(['MIGRATION_EXISTS', 'SOURCE_GONE']);
    await hosts.writes(guest, 3);
    const { domain } = await hosts.host('host-b').client.domains.getDomain({ domain: 'web' });
    expect(domain).toMatchObject({ ownerHost: 'host-b', state: 'STATE_RUNNING' });
  });
});

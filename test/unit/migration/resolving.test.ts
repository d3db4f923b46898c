import { describe, expect, it, vi } from 'vitest';
import { describeDiscarded } from '../../../src/migration/discarding.js';
import { MigrationError } from '../../../src/migration/errors.js';
import type { ReadJournal } from '../../../src/migration/journal-reading.js';
import { NO_RECORD, type PeerState } from '../../../src/migration/peer.js';
import {
  type Resolvable,
  type ResolveRequest,
  Resolver,
} from '../../../src/migration/resolving.js';
import { systemClock } from '../../../src/util/clock.js';
import { memoryLog } from '../../support/fake-agent.js';
import { fakeMigration } from '../../support/fake-migration.js';

const AT = '2026-02-01T00:00:00.000Z';
const migration = fakeMigration({ state: 'IN_DOUBT' });
const patient = { signal: new AbortController().signal };

function journal(side: 'source' | 'destination', record: string, details = {}): ReadJournal {
  return {
    header: { ...migration, side, details: { sourceJournalId: 'at-source' } },
    entries: [{ n: 1, record, at: AT, ...details }],
  } as unknown as ReadJournal;
}

function stage(change: Partial<Resolvable> = {}, fence?: () => Promise<void>) {
  const state = { ...NO_RECORD, record: 'COMMITTED', rank: { epoch: 1, generation: 1 } };
  const half = {
    migration,
    journal: journal('source', 'COMMITTED', { destinationJournalId: 'at-destination' }),
    state: state as PeerState,
    undecided: true,
    query: vi.fn().mockRejectedValue(new MigrationError('PEER_UNREACHABLE', 'It is off.')),
    settledBy: () => true,
    resolve: vi.fn().mockResolvedValue(true),
    ...change,
  };
  const log = memoryLog();
  const ran = fence && vi.fn(fence);
  const resolver = new Resolver({
    host: 'host-a',
    find: () => half,
    get: () => migration,
    fence: ran,
    clock: systemClock,
    log,
  });
  const resolve = (asked: Partial<ResolveRequest> = {}) =>
    resolver.resolve(
      {
        migrationId: migration.migrationId,
        action: 'reclaim',
        confirmDomainName: 'web',
        note: '',
        caller: 'operator alice',
        ...asked,
      },
      patient,
    );
  return { half, log, resolve, fence: ran };
}

function answer(record: string, journalId = 'at-destination'): PeerState {
  return { ...NO_RECORD, record, journalId, rank: { epoch: 1, generation: 2 } } as PeerState;
}

describe("a person's word about a migration in doubt", () => {
  it('goes into the journal and the log with all that it rests on', async () => {
    const { half, log, resolve } = stage();
    const resolution = await resolve({ note: 'ticket 4711' });
    expect(resolution).toMatchObject({ evidence: 'CONFIRMED_NAME', ownerHost: 'host-a' });
    const audit = {
      action: 'reclaim',
      caller: 'operator alice',
      evidence: 'CONFIRMED_NAME',
      note: 'ticket 4711',
      peerAnswer: 'host-b does not answer: It is off.',
      peerAskedTime: expect.any(String),
    };
    expect(half.resolve).toHaveBeenCalledWith('reclaim', {
      ...audit,
      discarded: [`every write that the guest made on host-b since ${AT}`],
    });
    expect(log.lines.at(-1)).toMatchObject({ level: 'warn', fields: audit });
  });

  it('leaves the domain to the other host by relinquishing, for which no fence is run', async () => {
    const { resolve, fence } = stage({}, async () => {});
    expect(await resolve({ action: 'relinquish' })).toMatchObject({ ownerHost: 'host-b' });
    expect(fence).not.toHaveBeenCalled();
  });

  it('is not asked for where the other side settles it', async () => {
    const { half, resolve } = stage({ query: async () => answer('RUNNING') });
    await expect(resolve()).rejects.toMatchObject({
      reason: 'NOTHING_TO_RESOLVE',
      facts: { peer_host: 'host-b', peer_record: 'RUNNING', peer_epoch: 1, peer_generation: 2 },
    });
    expect(half.resolve).not.toHaveBeenCalled();
  });

  it.each([
    ['that settles nothing', answer('OWNED'), false],
    ['by another journal', answer('RUNNING', 'another'), true],
  ])('is taken after an answer %s', async (_, said, settled) => {
    const { resolve } = stage({ query: async () => said, settledBy: () => settled });
    expect((await resolve()).peerAnswer).toMatch(/host-b says .* settles nothing/);
  });

  it('counts for nothing where it is not in doubt, or has ceased to be meanwhile', async () => {
    for (const change of [{ undecided: false }, { resolve: async () => false }]) {
      const { resolve } = stage(change);
      await expect(resolve()).rejects.toMatchObject({ reason: 'NOTHING_TO_RESOLVE' });
    }
  });

  it('needs the name, a fence, or neither of another one', async () => {
    const { half, resolve } = stage();
    await expect(resolve({ confirmDomainName: '' })).rejects.toMatchObject({
      reason: 'FENCE_UNPROVEN',
      hint: expect.stringMatching(/--confirm web.*command that fences/),
    });
    await expect(resolve({ confirmDomainName: 'web ' })).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    await expect(resolve({ action: 'relinquish', confirmDomainName: '' })).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    await expect(resolve({ note: 'x'.repeat(501) })).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    expect(half.query).not.toHaveBeenCalled();
  });

  it('rests on the fence command only after the other side was asked', async () => {
    const query = vi.fn(async () => {
      expect(fence).not.toHaveBeenCalled();
      throw new MigrationError('PEER_UNREACHABLE', 'It is off.');
    });
    const { resolve, fence } = stage({ query }, async () => {});
    expect(await resolve({ confirmDomainName: '' })).toMatchObject({ evidence: 'FENCE_COMMAND' });
    expect(query).toHaveBeenCalledOnce();
    const { migrationId, domainUuid } = migration;
    expect(fence).toHaveBeenCalledExactlyOnceWith(
      { peerHost: 'host-b', migrationId, domainName: 'web', domainUuid },
      patient,
    );
  });

  it('is refused where the fence command fails, and says both ways', async () => {
    const { half, resolve } = stage({}, async () => {
      throw new Error('exit code 3: no such outlet');
    });
    await expect(resolve({ confirmDomainName: '' })).rejects.toMatchObject({
      reason: 'FENCE_UNPROVEN',
      message: expect.stringMatching(/no such outlet/),
      hint: expect.stringMatching(/--confirm web/),
    });
    expect(half.resolve).not.toHaveBeenCalled();
  });

  it('is taken once at a time', async () => {
    let go = () => {};
    const { resolve } = stage({}, () => new Promise((done) => (go = done)));
    const first = resolve({ confirmDomainName: '' });
    await expect(resolve()).rejects.toMatchObject({ reason: 'DOMAIN_BUSY' });
    await vi.waitFor(() => expect(go).not.toHaveLength(0));
    go();
    await first;
    await resolve();
  });
});

describe('what a decision discards', () => {
  it.each([
    ['reclaim', 'source', 'COMMITTED', [`every write that the guest made on host-b since ${AT}`]],
    ['reclaim', 'destination', 'OWNED', [/made on host-a after .*if it ran/, /RAM .* host-a/]],
    ['relinquish', 'source', 'COMMITTED', [/RAM .* host-a/, /images on host-a .*tombstone/]],
    ['relinquish', 'destination', 'OWNED', [/made on host-b since/, /images stay/]],
  ] as const)('by %s at the %s is said with its time', (action, side, record, expected) => {
    const discarded = describeDiscarded(action, journal(side, record));
    expect(discarded).toHaveLength(expected.length);
    discarded.forEach(({ what, since, host }, i) => {
      expect(what).toMatch(expected[i] ?? '');
      expect(what).toContain(host);
      expect(since).toEqual(new Date(AT));
    });
  });
});

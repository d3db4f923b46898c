import { describe, expect, it, vi } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import type { MigratableDomains } from '../../src/domain/types.js';
import { IncomingMigrations } from '../../src/migration/incoming-migrations.js';
import type { Journals } from '../../src/migration/journals.js';
import { NO_RECORD, type PeerCalls, type PeerHeader } from '../../src/migration/peer.js';
import { MigrationRegistry } from '../../src/migration/registry.js';
import { DEFAULT_LINK, Traffic } from '../../src/migration/traffic.js';
import { noAudit } from '../../src/util/audit.js';
import { systemClock } from '../../src/util/clock.js';
import { MemoryJournal } from '../support/memory-journal.js';
import { silentLog } from '../support/silent-log.js';

const header: PeerHeader = {
  migrationId: '00000000-0000-4000-8000-000000000001',
  attempt: 1,
  domainUuid: '00000000-0000-4000-8000-000000000002',
  epoch: 1,
  generation: 1,
  sourceHost: 'alpha',
  destinationHost: 'beta',
  sourceJournalId: 'one',
  destinationJournalId: '',
};
const launchSpec = { spec: { name: 'web', uuid: header.domainUuid } } as LaunchSpec;

const JOURNAL = { side: 'destination', journalId: 'two', generation: 2 } as const;

/** The incoming migrations of beta, with one whose source is never reached. */
async function stage(): Promise<IncomingMigrations> {
  const calls = { queryMigration: () => new Promise(() => {}) } as unknown as PeerCalls;
  const incoming = new IncomingMigrations({
    audit: noAudit,
    host: 'beta',
    domains: { assertMayArrive: () => {} } as unknown as MigratableDomains,
    journals: { create: async () => new MemoryJournal(JOURNAL) } as unknown as Journals,
    outgoing: { answer: async () => NO_RECORD },
    peers: { calls: () => calls },
    registry: new MigrationRegistry(),
    link: DEFAULT_LINK,
    traffic: new Traffic(DEFAULT_LINK, { clock: systemClock, log: silentLog }),
    clock: systemClock,
    log: silentLog,
  });
  incoming.prepare(header, launchSpec).catch(() => {});
  await vi.waitFor(async () => {
    const { record } = await incoming.queryMigration(header, NO_RECORD);
    expect(record).toBe('PREPARED');
  });
  return incoming;
}

describe('a call of another agent', () => {
  it.each([
    ['another life of the source', { sourceJournalId: 'other' }],
    ['another life of the destination', { destinationJournalId: 'other' }],
    ['another domain', { domainUuid: '00000000-0000-4000-8000-000000000003' }],
  ])('of %s is refused and touches nothing', async (_, change) => {
    const incoming = await stage();
    const wrong = { ...header, ...change };
    await expect(incoming.abort(wrong)).rejects.toMatchObject({ reason: 'MIGRATION_EXISTS' });
    expect(await incoming.queryMigration(header, NO_RECORD)).toMatchObject({ record: 'PREPARED' });
  });

  it('of another attempt at the RAM takes nothing', async () => {
    const incoming = await stage();
    const wrong = { ...header, attempt: 2, destinationJournalId: 'two' };
    await expect(incoming.commit(wrong, { paused: false })).rejects.toMatchObject({
      reason: 'MIGRATION_EXISTS',
    });
  });

  it('for another host is refused, and so is any once the agent stops', async () => {
    const incoming = await stage();
    await expect(
      incoming.prepare({ ...header, destinationHost: 'gamma' }, launchSpec),
    ).rejects.toMatchObject({ reason: 'PERMISSION_DENIED' });
    void incoming.close();
    const later = { ...header, migrationId: '00000000-0000-4000-8000-000000000009' };
    await expect(incoming.prepare(later, launchSpec)).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
    });
  });
});

import { describe, expect, it } from 'vitest';
import type { LaunchSpec, MigratableDomains } from '../../src/domain/types.js';
import { IncomingMigrations } from '../../src/migration/incoming-migrations.js';
import type { PeerCalls, PeerHeader } from '../../src/migration/peer.js';
import { MigrationRegistry } from '../../src/migration/registry.js';
import { systemClock } from '../../src/util/clock.js';
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
const launchSpec = { spec: { name: 'web' } } as LaunchSpec;

/** The incoming migrations of beta, with one whose source is never reached. */
function stage(): IncomingMigrations {
  const calls = { queryMigration: () => new Promise(() => {}) } as unknown as PeerCalls;
  const incoming = new IncomingMigrations({
    host: 'beta',
    domains: {} as MigratableDomains,
    peers: { calls: () => calls },
    registry: new MigrationRegistry(),
    clock: systemClock,
    log: silentLog,
  });
  incoming.prepare(header, launchSpec).catch(() => {});
  return incoming;
}

describe('a call of another agent', () => {
  it.each([
    ['another source', { sourceHost: 'gamma' }],
    ['another life of the source', { sourceJournalId: 'other' }],
    ['another life of the destination', { destinationJournalId: 'other' }],
    ['another attempt', { attempt: 2 }],
    ['another domain', { domainUuid: '00000000-0000-4000-8000-000000000003' }],
  ])('of %s is refused and touches nothing', async (_, change) => {
    const incoming = stage();
    const wrong = { ...header, ...change };
    await expect(incoming.abort(wrong)).rejects.toMatchObject({ reason: 'MIGRATION_EXISTS' });
    expect(await incoming.queryMigration(header)).toMatchObject({ record: 'PREPARED' });
  });

  it('for another host is refused, and so is any once the agent stops', async () => {
    const incoming = stage();
    await expect(
      incoming.prepare({ ...header, destinationHost: 'gamma' }, launchSpec),
    ).rejects.toMatchObject({ reason: 'TLS_PEER_REJECTED' });
    void incoming.close();
    const later = { ...header, migrationId: '00000000-0000-4000-8000-000000000009' };
    await expect(incoming.prepare(later, launchSpec)).rejects.toMatchObject({
      reason: 'PEER_UNREACHABLE',
    });
  });
});

import type { Migration } from '../../src/migration/migration.js';

/** A migration in the middle of its mirror phase. */
export function fakeMigration(change: Partial<Migration> = {}): Migration {
  return {
    migrationId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11',
    domainUuid: '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22',
    domainName: 'web',
    sourceHost: 'host-a',
    destinationHost: 'host-b',
    state: 'RUNNING',
    phase: 'mirror',
    runningOn: 'SOURCE',
    cancellable: true,
    revision: 1,
    createTime: new Date(0),
    endTime: undefined,
    phaseTimes: [],
    disks: [],
    ram: undefined,
    summary: undefined,
    failure: undefined,
    transport: undefined,
    transportReason: '',
    ...change,
  };
}

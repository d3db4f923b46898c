import type { Journal, JournalEntry, JournalHeader } from '../../src/migration/journal.js';

/** A journal in memory, which writes when the test lets it. */
export class MemoryJournal {
  readonly header: JournalHeader;
  readonly entries: JournalEntry[] = [];
  broken = false;
  /** What keeps the next records from being written. */
  before: (record: string) => Promise<void> = async () => {};

  constructor(header: Partial<JournalHeader> = {}) {
    this.header = {
      version: 1,
      journalId: 'journal',
      migrationId: '00000000-0000-4000-8000-000000000001',
      side: 'source',
      domainUuid: '00000000-0000-4000-8000-000000000002',
      domainName: 'web',
      sourceHost: 'alpha',
      destinationHost: 'beta',
      epoch: 1,
      generation: 1,
      attempt: 1,
      bootId: 'boot',
      createTime: '2026-01-01T00:00:00.000Z',
      binding: { device: '1', inode: '2', journalDevice: '1', journalInode: '3' },
      details: { sourceJournalId: 'one' },
      ...header,
    };
  }

  get records(): string[] {
    return this.entries.map(({ record }) => record);
  }

  /** The same for those who want the real one. */
  get journal(): Journal {
    return this as unknown as Journal;
  }

  async append(record: string, details: object = {}): Promise<JournalEntry> {
    await this.before(record);
    const entry = {
      n: this.entries.length + 1,
      record,
      at: '2026-01-01T00:00:00.000Z',
      ...details,
    };
    this.entries.push(entry);
    return entry;
  }

  async close(): Promise<void> {}
}

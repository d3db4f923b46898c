import { describe, expect, it, vi } from 'vitest';
import { DomainError } from '../../src/domain/errors.js';
import type { IncomingDomain, MigratableDomains } from '../../src/domain/types.js';
import { DestinationContext } from '../../src/migration/destination-context.js';
import type { PeerCalls, PeerState } from '../../src/migration/peer.js';
import { headerAtDestination } from '../../src/migration/peer-header.js';
import { SourcePeer } from '../../src/migration/source-peer.js';
import { Tracker } from '../../src/migration/tracker.js';
import { noAudit } from '../../src/util/audit.js';
import { systemClock } from '../../src/util/clock.js';
import { deferred } from '../../src/util/deferred.js';
import { MemoryJournal } from '../support/memory-journal.js';
import { silentLog } from '../support/silent-log.js';

/** An incoming domain that notes what is done to it. */
class NotedDomain implements Partial<IncomingDomain> {
  readonly done: string[] = [];
  readonly end = deferred<DomainError>();
  alive = true;
  mayHaveRun = false;
  qemu: 'waiting' | 'loaded' | 'running' | 'gone' = 'loaded';

  get died(): Promise<DomainError> {
    return this.end.promise;
  }

  async observe() {
    return this.qemu;
  }

  async kill(): Promise<void> {
    this.done.push('kill');
  }

  async resume(): Promise<void> {
    this.done.push('resume');
    if (!this.alive) throw new DomainError('DEST_QEMU_DIED', 'It is gone.');
  }

  async arrive(): Promise<void> {
    this.done.push('arrive');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.done.push('dispose');
  }
}

/** The destination's half over a journal that holds these records already. */
function stage(...records: string[]) {
  const journal = new MemoryJournal({ side: 'destination', generation: 2 });
  const at = '2026-01-01T00:00:00.000Z';
  for (const record of records) journal.entries.push({ n: 1, record, at });
  const incoming = new NotedDomain();
  const domains = { doubt: vi.fn(), standDown: vi.fn(), raiseEpoch: vi.fn() };
  const tracker = new Tracker(journal.header, systemClock);
  const header = headerAtDestination(journal);
  const calls = { queryMigration: vi.fn<() => Promise<PeerState>>(() => new Promise(() => {})) };
  const source = new SourcePeer(header, calls as unknown as PeerCalls, silentLog);
  const context = new DestinationContext({
    audit: noAudit,
    header,
    journal: journal.journal,
    tracker,
    source,
    domains: domains as unknown as MigratableDomains,
    log: silentLog,
  });
  const domain = incoming as unknown as IncomingDomain;
  return { journal, incoming, domain, domains, tracker, calls, context };
}

async function loaded() {
  const all = stage('PREPARED');
  all.context.holds(all.domain);
  for (const phase of ['prepare', 'mirror', 'precopy', 'switchover'] as const) {
    all.context.enter(phase);
  }
  await all.context.loaded({});
  return all;
}

/** Without the records that only help people. */
function decisions({ records }: MemoryJournal): string[] {
  return records.filter((record) => record !== 'EXPORTED' && record !== 'RAM');
}

function said(record: PeerState['record'], epoch = 1): PeerState {
  return { record, rank: { epoch, generation: 1 }, journalId: 'one', failure: undefined };
}

describe('taking the guest', () => {
  it('is refused, after it was undone in writing, when QEMU dies while that is written', async () => {
    const { incoming, journal, context } = await loaded();
    const writing = deferred();
    const written = deferred();
    journal.before = async (record) => {
      if (record === 'OWNED') writing.resolve();
      await written.promise;
    };
    const outcome = context.take({ paused: false });
    await writing.promise;
    incoming.alive = false;
    incoming.end.resolve(new DomainError('DEST_QEMU_DIED', 'It is gone.'));
    const aborted = context.abort();
    expect(incoming.done, 'nothing is removed while it is written').toEqual([]);
    written.resolve();
    await aborted;
    expect(await outcome).toMatchObject({ outcome: 'REFUSED' });
    expect(incoming.done).toEqual(['resume', 'kill', 'dispose']);
    expect(decisions(journal)).toEqual(['PREPARED', 'LOADED', 'OWNED', 'ABORTED', 'ENDED']);
  });

  it('is lost, and the images stay, when QEMU dies once the guest may have run', async () => {
    const { incoming, journal, context } = await loaded();
    incoming.alive = false;
    incoming.mayHaveRun = true;
    expect(await context.take({ paused: false })).toEqual({ outcome: 'OWNED_LOST' });
    expect(incoming.done).toEqual(['resume', 'arrive']);
    expect(decisions(journal)).toEqual(['PREPARED', 'LOADED', 'OWNED', 'RUNNING']);
  });

  it('is neither refused nor given up while OWNED may or may not be written', async () => {
    const { incoming, journal, context } = await loaded();
    journal.before = () => Promise.reject(new Error('EIO'));
    await expect(context.take({ paused: false })).rejects.toThrow('EIO');
    await context.abort();
    expect(incoming.done, 'the guest stays loaded').toEqual([]);
    journal.before = async () => {};
    expect(await context.take({ paused: false })).toMatchObject({ outcome: 'RUNNING' });
    expect(incoming.done).toEqual(['resume', 'arrive']);
  });

  it('is refused once it was given up, however often it is asked', async () => {
    const { incoming, journal, context } = await loaded();
    await context.abort();
    const commit = () => context.take({ paused: false });
    expect([await commit(), await commit()]).toMatchObject([
      { outcome: 'REFUSED' },
      { outcome: 'REFUSED' },
    ]);
    expect(incoming.done).toEqual(['dispose']);
    expect(journal.records).not.toContain('OWNED');
  });

  it('ends when the source is gone, and then asks no more', async () => {
    const { journal, tracker, context } = await loaded();
    expect(await context.take({ paused: false })).toMatchObject({ outcome: 'RUNNING' });
    await context.sourceGone();
    expect(journal.records.slice(-2)).toEqual(['SOURCE_GONE', 'ENDED']);
    expect(tracker.now).toMatchObject({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
  });
});

describe('an agent that starts again', () => {
  it('asks the source before it resumes a guest that it owns, and is in doubt meanwhile', async () => {
    const { incoming, domain, domains, journal, calls, context } = stage(
      'PREPARED',
      'LOADED',
      'OWNED',
    );
    const answer = deferred<PeerState>();
    calls.queryMigration.mockReturnValue(answer.promise);
    await context.recover(domain);
    await vi.waitFor(() => expect(calls.queryMigration).toHaveBeenCalled());
    expect(incoming.done).toEqual([]);
    expect(domains.doubt.mock.lastCall?.[1]).toMatchObject({ reason: 'OWNERSHIP_UNKNOWN' });
    const commit = context.take({ paused: false });
    answer.resolve(said('COMMITTED'));
    expect(await commit).toMatchObject({ outcome: 'RUNNING' });
    expect(incoming.done).toEqual(['resume', 'arrive']);
    expect(journal.records.at(-1)).toBe('RUNNING');
    await vi.waitFor(() => expect(domains.doubt.mock.lastCall?.[1]).toBeUndefined());
  });

  it('stands down for a source that has taken the guest back by a higher epoch', async () => {
    const { incoming, domain, domains, journal, calls, tracker, context } = stage(
      'PREPARED',
      'LOADED',
      'OWNED',
      'RUNNING',
    );
    incoming.qemu = 'running';
    calls.queryMigration.mockResolvedValue(said('RECLAIMED', 2));
    await context.recover(domain);
    await vi.waitFor(() => expect(journal.records).toContain('SUPERSEDED'));
    expect(domains.standDown).toHaveBeenCalled();
    expect(incoming.done).not.toContain('dispose');
    await vi.waitFor(() =>
      expect(domains.doubt.mock.lastCall?.[1]).toMatchObject({ reason: 'OWNERSHIP_LOST' }),
    );
    expect(tracker.now.endTime).toBeDefined();
  });

  it('removes what was prepared and whose QEMU is of no use any more', async () => {
    const { incoming, domain, journal, tracker, context } = stage('PREPARED');
    incoming.qemu = 'gone';
    await context.recover(domain);
    expect(incoming.done).toEqual(['dispose']);
    expect(journal.records).toEqual(['PREPARED', 'ABORTED', 'ENDED']);
    expect(tracker.now).toMatchObject({ state: 'FAILED', failure: { reason: 'AGENT_RESTARTED' } });
  });

  it('keeps a guest that is loaded, because its source may have committed', async () => {
    const { incoming, domain, journal, context } = stage('PREPARED', 'LOADED');
    await context.recover(domain);
    expect(incoming.done).toEqual([]);
    expect(await context.take({ paused: true })).toMatchObject({ outcome: 'RUNNING' });
    expect(journal.records).toEqual(['PREPARED', 'LOADED', 'OWNED', 'RUNNING']);
    context.leave();
  });
});

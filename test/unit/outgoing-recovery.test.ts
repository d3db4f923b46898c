import { afterEach, describe, expect, it, vi } from 'vitest';
import type { MigratableDomains, OutgoingDomain, OutgoingState } from '../../src/domain/types.js';
import type { DestinationRecord } from '../../src/migration/handover-types.js';
import type { MigrationTools } from '../../src/migration/migrations.js';
import { OutgoingMigration } from '../../src/migration/outgoing-migration.js';
import type { CommitOutcome, PeerCalls, PeerState } from '../../src/migration/peer.js';
import { Tracker } from '../../src/migration/tracker.js';
import { DEFAULT_LINK, Traffic } from '../../src/migration/traffic.js';
import { systemClock } from '../../src/util/clock.js';
import { MemoryJournal } from '../support/memory-journal.js';
import { silentLog } from '../support/silent-log.js';

const RUNNING: CommitOutcome = { outcome: 'RUNNING', cost: { journalUs: 1, handledUs: 2 } };
const mirroring: OutgoingState = { qemu: 'running', mirrored: true };

function said(record: DestinationRecord, epoch = 1): PeerState {
  return { record, rank: { epoch, generation: 2 }, journalId: 'two', failure: undefined };
}

const stopping = new AbortController();
afterEach(() => void vi.useRealTimers());

/** A migration whose journal holds these records, and all that is done for it, in order. */
function stage(records: readonly string[], state: OutgoingState) {
  const done: string[] = [];
  const journal = new MemoryJournal();
  const at = '2026-01-01T00:00:00.000Z';
  for (const record of records) journal.entries.push({ n: 1, record, at, paused: true });
  journal.before = async (record) => void done.push(record);
  const calls = {
    commit: vi.fn<() => Promise<CommitOutcome>>(() => new Promise(() => {})),
    abort: vi.fn(async () => {
      done.push('abort');
      return said('ABORTED');
    }),
    queryMigration: vi.fn(async () => said('PREPARED')),
    sourceGone: vi.fn(async () => void done.push('source gone')),
  };
  const domains = { doubt: vi.fn(), unclaim: vi.fn(), raiseEpoch: vi.fn(), standDown: vi.fn() };
  const flow = vi.fn(() => Promise.reject(new Error('The flow was run again.')));
  const found = {
    name: 'web',
    domain: { launchSpec: flow },
    observe: async () => state,
    bringBack: async ({ paused }: { paused: boolean }) =>
      void done.push(paused ? 'bring back paused' : 'bring back'),
    retire: async () => void done.push('retire'),
  } as unknown as OutgoingDomain;
  const tracker = new Tracker(journal.header, systemClock);
  const migration = new OutgoingMigration({
    request: {
      domain: 'web',
      destinationHost: 'beta',
      migrationId: journal.header.migrationId,
      downtimeLimitMs: 300,
      maxBandwidth: 0,
      transport: 'auto',
      gentle: false,
      weight: 10,
    },
    journal: journal.journal,
    tracker,
    calls: calls as unknown as PeerCalls,
    tools: {
      domains: domains as unknown as MigratableDomains,
      traffic: new Traffic(DEFAULT_LINK, { clock: systemClock, log: silentLog }),
      clock: systemClock,
      log: silentLog,
    } as unknown as MigrationTools,
    log: silentLog,
    stopping: stopping.signal,
  });
  const recover = async (sameBoot = true) => {
    await migration.recover(found, sameBoot);
    await migration.done;
  };
  return { done, journal, calls, domains, flow, tracker, migration, found, recover };
}

describe('a source whose agent starts again', () => {
  it('runs the flow again where the mirrors go on and the destination waits', async () => {
    const { flow, recover, done } = stage(['STARTED', 'DST_PREPARED'], mirroring);
    await recover();
    expect(flow).toHaveBeenCalled();
    expect(done[0], 'nothing was given up before').toBe('bring back paused');
  });

  it('rolls back where the destination has nothing to write to any more', async () => {
    const { calls, flow, tracker, done, recover } = stage(['STARTED', 'DST_PREPARED'], mirroring);
    calls.queryMigration.mockResolvedValue(said('ABORTED'));
    await recover();
    expect(flow).not.toHaveBeenCalled();
    expect(done).toContain('bring back paused');
    expect(tracker.now).toMatchObject({ state: 'FAILED', failure: { reason: 'AGENT_RESTARTED' } });
  });

  it.each([
    ['while QEMU holds the guest', ['STARTED', 'DST_PREPARED', 'SWITCHING'], 'switching'],
    ['when QEMU had sent everything', ['STARTED', 'DST_PREPARED', 'SWITCHING'], 'completed'],
    ['while RAM was sent', ['STARTED', 'DST_PREPARED', 'RAM'], 'running'],
    ['after the rescue has written it', ['STARTED', 'SWITCHING', 'ABORTED'], 'running'],
  ] as const)(
    'lets the guest run here %s, with ABORTED written first',
    async (_, records, qemu) => {
      const { done, tracker, calls, recover } = stage(records, { qemu, mirrored: false });
      await recover();
      const written = records.includes('ABORTED' as never) ? [] : ['ABORTED'];
      expect(done.slice(0, written.length + 1)).toEqual([...written, 'bring back paused']);
      expect(calls.commit).not.toHaveBeenCalled();
      expect(tracker.now).toMatchObject({ state: 'FAILED', runningOn: 'SOURCE' });
    },
  );

  it('touches nothing after COMMITTED before the destination has answered', async () => {
    const { done, domains, calls, migration, found } = stage(['STARTED', 'COMMITTED'], {
      qemu: 'completed',
      mirrored: false,
    });
    await migration.recover(found, true);
    await vi.waitFor(() => expect(calls.commit).toHaveBeenCalled());
    expect(done).toEqual([]);
    expect(domains.doubt.mock.lastCall?.[1]).toMatchObject({ reason: 'OWNERSHIP_UNKNOWN' });
  });

  it('ends what it committed when the destination has the guest', async () => {
    const { done, calls, tracker, recover } = stage(['STARTED', 'COMMITTED'], {
      qemu: 'completed',
      mirrored: false,
    });
    calls.commit.mockResolvedValue(RUNNING);
    await recover();
    expect(done).toEqual(['DONE', 'retire', 'source gone', 'ENDED']);
    expect(tracker.now).toMatchObject({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
  });

  it.each([
    ['RUNNING', ['DONE', 'retire', 'source gone', 'ENDED'], 'SUCCEEDED'],
    ['ABORTED', ['RECLAIMED', 'bring back paused'], 'FAILED'],
  ] as const)(
    'learns %s by the question of a destination whose answers are lost',
    async (record, done, state) => {
      const all = stage(['STARTED', 'COMMITTED'], { qemu: 'completed', mirrored: false });
      await all.migration.recover(all.found, true);
      await vi.waitFor(() => expect(all.calls.commit).toHaveBeenCalled());
      await all.migration.hear(said(record));
      await all.migration.done;
      expect(all.done.slice(0, done.length)).toEqual(done);
      expect(all.tracker.now.state).toBe(state);
    },
  );

  it('takes back what it committed only when the destination refuses', async () => {
    const { done, calls, tracker, recover } = stage(['STARTED', 'COMMITTED'], {
      qemu: 'completed',
      mirrored: false,
    });
    calls.commit.mockResolvedValue({ outcome: 'REFUSED', failure: undefined });
    await recover();
    expect(done.slice(0, 2)).toEqual(['RECLAIMED', 'bring back paused']);
    expect(tracker.now).toMatchObject({ state: 'FAILED', runningOn: 'SOURCE' });
  });

  it('is not stopped by what the destination says when the guest has come back for good', async () => {
    const { calls, domains, journal, migration, recover } = stage(['STARTED', 'COMMITTED'], {
      qemu: 'completed',
      mirrored: false,
    });
    calls.commit.mockResolvedValue({ outcome: 'REFUSED', failure: undefined });
    await recover();
    expect(journal.records).toContain('ENDED');
    const before = journal.records;
    for (const record of ['RUNNING', 'OWNED', 'SOURCE_GONE'] as const) {
      await migration.hear(said(record, 99));
    }
    expect(domains.standDown).not.toHaveBeenCalled();
    expect(journal.records).toEqual(before);
    expect(migration.state.record).toBe('RECLAIMED');
  });

  it('believes only the journal that took part', async () => {
    const { calls, journal, migration, found } = stage(['STARTED', 'COMMITTED'], {
      qemu: 'completed',
      mirrored: false,
    });
    Object.assign(journal.entries[0] ?? {}, { destinationJournalId: 'two' });
    await migration.recover(found, true);
    await vi.waitFor(() => expect(calls.commit).toHaveBeenCalled());
    await migration.hear({ ...said('RUNNING'), journalId: 'three' });
    expect(migration.state.record).toBe('COMMITTED');
    await migration.hear(said('RUNNING'));
    await migration.done;
    expect(migration.state.record).toBe('DONE');
  });

  it('lets go of what is done', async () => {
    const { done, tracker, recover } = stage(['STARTED', 'COMMITTED', 'DONE'], {
      qemu: 'completed',
      mirrored: false,
    });
    await recover();
    expect(done).toEqual(['retire', 'source gone', 'ENDED']);
    expect(tracker.now.state).toBe('SUCCEEDED');
  });

  it('does not trust its journal after a new boot, and asks the destination to give up', async () => {
    const gone = { qemu: 'gone', mirrored: false } as const;
    const refused = stage(['STARTED', 'DST_PREPARED'], gone);
    await refused.recover(false);
    expect(refused.done.slice(0, 2)).toEqual(['abort', 'ABORTED']);

    const taken = stage(['STARTED', 'DST_PREPARED'], gone);
    taken.calls.abort.mockResolvedValue(said('RUNNING'));
    await taken.recover(false);
    expect(taken.done).toEqual(['DONE', 'retire', 'source gone', 'ENDED']);
  });

  it('keeps the domain stopped while nobody answers after a new boot', async () => {
    vi.useFakeTimers();
    const { done, calls, domains, tracker, migration, found } = stage(['STARTED', 'SWITCHING'], {
      qemu: 'gone',
      mirrored: false,
    });
    calls.abort.mockRejectedValue(new Error('no line'));
    await migration.recover(found, false);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(done).toEqual(['IN_DOUBT']);
    expect(domains.doubt.mock.lastCall?.[1]).toMatchObject({ reason: 'OWNERSHIP_UNKNOWN' });
    expect(tracker.now).toMatchObject({ state: 'IN_DOUBT', runningOn: 'UNKNOWN' });
    await migration.resolve('reclaim', { by: 'operator test' });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(done.slice(1, 3)).toEqual(['RESOLVED', 'RECLAIMED']);
    expect(domains.raiseEpoch).toHaveBeenCalledWith(tracker.now.domainUuid, 2);
  });

  it('tries again while its QEMU lives and does not answer', async () => {
    const { done, found, migration } = stage(['STARTED', 'SWITCHING'], {
      qemu: 'switching',
      mirrored: false,
    });
    const observe = vi.spyOn(found, 'observe').mockRejectedValueOnce(new Error('it is stopped'));
    await migration.recover(found, true);
    expect(done).toEqual([]);
    await vi.waitFor(
      () => expect(done.slice(0, 2)).toEqual(['ABORTED', 'bring back paused']),
      5_000,
    );
    expect(observe).toHaveBeenCalledTimes(2);
  });
});

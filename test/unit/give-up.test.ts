import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Decider } from '../../src/migration/decider.js';
import { MigrationPeer } from '../../src/migration/destination-peer.js';
import { MigrationError } from '../../src/migration/errors.js';
import { GiveUp, type GiveUpPorts } from '../../src/migration/give-up.js';
import { sourceStateOf, stepSource } from '../../src/migration/handover.js';
import type { SourceEvent, SourceState } from '../../src/migration/handover-types.js';
import type { CommitOutcome, PeerCalls, PeerHeader } from '../../src/migration/peer.js';
import { NO_RECORD } from '../../src/migration/peer.js';
import { deferred } from '../../src/util/deferred.js';
import { MemoryJournal } from '../support/memory-journal.js';
import { silentLog } from '../support/silent-log.js';

const header = { migrationId: 'm', destinationHost: 'beta', sourceHost: 'alpha' } as PeerHeader;
const guest = { paused: false, guard: { fenced: true, settled: true, voted: true } };
const RUNNING: CommitOutcome = {
  outcome: 'RUNNING',
  cost: { journalUs: 1, handledUs: 2 },
};
const rank = { epoch: 1, generation: 1 };

/** Ports that note what they are told, and a destination that answers when the test says so. */
function stage(commit: () => Promise<CommitOutcome>) {
  const told: string[] = [];
  const stopping = new AbortController();
  const journal = new MemoryJournal();
  const append = journal.append.bind(journal);
  journal.append = async (record, details) => {
    const entry = await append(record, details);
    told.push(record);
    return entry;
  };
  const decider = new Decider<SourceState, SourceEvent>({
    state: sourceStateOf(rank, []),
    step: stepSource,
    journal: journal.journal,
    standDown: async () => void told.push('stand down'),
  });
  const ports: GiveUpPorts = {
    inDoubt: (failure) => void told.push(failure ? 'in doubt' : 'no doubt'),
    note: () => {},
    stopping: stopping.signal,
  };
  const calls = { commit: vi.fn(commit), revoke: vi.fn() };
  const giveUp = new GiveUp(decider, calls as unknown as PeerCalls, ports, silentLog);
  return { told, stopping, calls, journal, decider, giveUp };
}

describe('giving the guest up', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('is in doubt after 15 seconds of silence, and no longer once it is answered', async () => {
    const answer = deferred<CommitOutcome>();
    const { told, giveUp } = stage(() => answer.promise);
    const run = giveUp.run(header, guest);
    await vi.advanceTimersByTimeAsync(14_999);
    expect(told).toEqual(['COMMITTED']);
    await vi.advanceTimersByTimeAsync(1);
    expect(told).toEqual(['COMMITTED', 'in doubt']);
    answer.resolve(RUNNING);
    await run;
    expect(told).toEqual(['COMMITTED', 'in doubt', 'no doubt', 'DONE']);
  });

  it('asks again, and takes no error for a no', async () => {
    vi.useRealTimers();
    const { told, calls, stopping, giveUp } = stage(() => Promise.reject(new Error('no line')));
    void giveUp.run(header, guest);
    await vi.waitFor(() => expect(calls.commit.mock.calls.length).toBe(3), 5_000);
    expect(told).toEqual(['COMMITTED']);
    expect(giveUp.taken).toBe(true);
    stopping.abort(new Error('The agent stops.'));
  });

  it('never unwinds once COMMITTED is written, not even when the agent stops', async () => {
    const { told, stopping, giveUp } = stage(() => Promise.reject(new Error('no connection')));
    const settled = vi.fn();
    void giveUp.run(header, guest).then(settled, settled);
    await vi.waitFor(() => expect(told).toEqual(['COMMITTED']));
    stopping.abort(new Error('The agent stops.'));
    await vi.waitFor(() => expect(told).toContain('in doubt'));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(told).toEqual(['COMMITTED', 'in doubt']);
    expect(settled).not.toHaveBeenCalled();
  });

  it('unwinds, with the guest ours, only when the destination refused', async () => {
    const { told, giveUp } = stage(async () => ({ outcome: 'REFUSED', failure: undefined }));
    await expect(giveUp.run(header, guest)).rejects.toMatchObject({ reason: 'DEST_QEMU_DIED' });
    expect(told).toEqual(['COMMITTED', 'no doubt', 'RECLAIMED']);
    expect(giveUp.taken).toBe(false);
  });

  it.each(['fenced', 'settled', 'voted'])('does not begin where it is not %s', async (missing) => {
    const { calls, told, giveUp } = stage(async () => RUNNING);
    const guard = { ...guest.guard, [missing]: false };
    await expect(giveUp.run(header, { ...guest, guard })).rejects.toMatchObject({
      facts: { [missing]: 'false' },
    });
    expect(calls.commit).not.toHaveBeenCalled();
    expect(told).toEqual(['ABORTED']);
  });

  it('makes the destination give up first when COMMITTED may or may not be written', async () => {
    const { calls, journal, giveUp, decider } = stage(async () => RUNNING);
    journal.before = () => Promise.reject(new Error('The disk is full.'));
    const refused = deferred<object>();
    calls.revoke.mockReturnValueOnce(Promise.reject(new Error('no line')));
    calls.revoke.mockReturnValueOnce(refused.promise);
    const settled = vi.fn();
    const run = giveUp.run(header, guest).finally(settled);
    run.catch(() => {});
    await vi.advanceTimersByTimeAsync(1_000);
    expect(settled, 'while the destination could still take it').not.toHaveBeenCalled();
    refused.resolve({ ...NO_RECORD, record: 'ABORTED' });
    await expect(run).rejects.toThrow('The disk is full.');
    expect(calls.commit).not.toHaveBeenCalled();
    expect(giveUp.taken).toBe(false);
    expect(decider.state.record).toBe('STARTED');
  });

  it('takes the guest back when a person says that the destination is fenced', async () => {
    const { told, giveUp, decider } = stage(() => new Promise(() => {}));
    const run = giveUp.run(header, guest);
    run.catch(() => {});
    await vi.advanceTimersByTimeAsync(20_000);
    const why = new MigrationError('CANCELLED_BY', 'A person said so.');
    await giveUp.hear({ type: 'resolved', by: 'reclaim' }, why);
    await expect(run).rejects.toMatchObject({ reason: 'CANCELLED_BY' });
    expect(told).toEqual(['COMMITTED', 'in doubt', 'RECLAIMED', 'no doubt']);
    expect(decider.state.rank).toEqual({ epoch: 2, generation: 1 });
  });

  it('lets the guest go when a person says that the destination has it', async () => {
    const { told, giveUp } = stage(() => new Promise(() => {}));
    const run = giveUp.run(header, guest);
    await vi.advanceTimersByTimeAsync(100);
    await giveUp.hear({ type: 'resolved', by: 'relinquish' }, new MigrationError('INTERNAL', ''));
    await run;
    expect(told).toEqual(['COMMITTED', 'DONE', 'no doubt']);
  });

  it('ends by the question of a destination that has the guest and whose answers are lost', async () => {
    const { told, giveUp } = stage(() => new Promise(() => {}));
    const run = giveUp.run(header, guest);
    await vi.advanceTimersByTimeAsync(100);
    const asked = { type: 'peer', record: 'RUNNING', rank: { epoch: 1, generation: 2 } } as const;
    await giveUp.hear(asked, new MigrationError('PEER_LOST', ''));
    await run;
    expect(told).toEqual(['COMMITTED', 'DONE', 'no doubt']);
  });

  it('does not wait for ever for the vote, because the guest is paused', async () => {
    const { giveUp } = stage(async () => RUNNING);
    const calls = {
      acceptRam: async () => ({}),
      awaitLoaded: () => new Promise(() => {}),
    } as unknown as PeerCalls;
    const peer = new MigrationPeer({
      header,
      calls,
      giveUp,
      log: silentLog,
      own: () => NO_RECORD,
      prepared: async () => {},
    });
    const { signal } = new AbortController();
    await peer.acceptRam('direct', { signal });
    const vote = expect(peer.loaded({ signal })).rejects.toMatchObject({ reason: 'STALLED' });
    await vi.advanceTimersByTimeAsync(30_000);
    await vote;
  });
});

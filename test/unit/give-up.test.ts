import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { MigrationPeer } from '../../src/migration/destination-peer.js';
import { GiveUp, type GiveUpPorts } from '../../src/migration/give-up.js';
import type { CommitOutcome, PeerCalls, PeerHeader } from '../../src/migration/peer.js';
import { deferred } from '../../src/util/deferred.js';
import { silentLog } from '../support/silent-log.js';

const header = { migrationId: 'm', destinationHost: 'beta', sourceHost: 'alpha' } as PeerHeader;
const guest = { paused: false };

/** Ports that note what they are told, and a destination that answers when the test says so. */
function stage(commit: () => Promise<CommitOutcome>) {
  const told: string[] = [];
  const stopping = new AbortController();
  const ports: GiveUpPorts = {
    write: async (record) => void told.push(record),
    inDoubt: (failure) => void told.push(failure ? 'in doubt' : 'no doubt'),
    note: () => {},
    stopping: stopping.signal,
  };
  const calls = { commit: vi.fn(commit) };
  const giveUp = new GiveUp(calls as unknown as PeerCalls, ports, silentLog);
  return { told, stopping, calls, ports, giveUp };
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
    answer.resolve({ outcome: 'RUNNING' });
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

  it('does not begin when COMMITTED cannot be written', async () => {
    const { calls, ports, giveUp } = stage(async () => ({ outcome: 'RUNNING' }));
    Object.assign(ports, { write: () => Promise.reject(new Error('The disk is full.')) });
    await expect(giveUp.run(header, guest)).rejects.toThrow('The disk is full.');
    expect(calls.commit).not.toHaveBeenCalled();
    expect(giveUp.taken).toBe(false);
  });

  it('does not wait for ever for the vote, because the guest is paused', async () => {
    const { ports } = stage(async () => ({ outcome: 'RUNNING' }));
    const calls = {
      acceptRam: async () => ({ ticket: 't' }),
      awaitLoaded: () => new Promise(() => {}),
    } as unknown as PeerCalls;
    const peer = new MigrationPeer(header, calls, ports, silentLog);
    const { signal } = new AbortController();
    await peer.acceptRam({ signal });
    const vote = expect(peer.loaded({ signal })).rejects.toMatchObject({ reason: 'STALLED' });
    await vi.advanceTimersByTimeAsync(30_000);
    await vote;
  });
});

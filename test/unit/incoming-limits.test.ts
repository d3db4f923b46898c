import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DomainError } from '../../src/domain/errors.js';
import type { MigrationError } from '../../src/migration/errors.js';
import {
  DEFAULT_INCOMING_LIMITS,
  type IncomingLimits,
  LimitedArrivals,
  type LimitedTools,
} from '../../src/migration/incoming-limits.js';
import type { PeerHeader } from '../../src/migration/peer.js';
import type { AuditEvent } from '../../src/util/audit.js';
import { fakeHeader } from '../support/fake-agent.js';

/** The destination's half as far as the limits see it. */
class FakeHalf {
  readonly known = new Map<string, FakeMigration>();
  readonly events: Omit<AuditEvent, 'time'>[] = [];
  /** What `prepare` waits for. */
  gate: Promise<void> = Promise.resolve();

  arrivals(limits: Partial<IncomingLimits>): LimitedArrivals {
    const tools = {
      host: 'host-b',
      limits: { ...DEFAULT_INCOMING_LIMITS, ...limits },
      registry: { list: () => [...this.known.values()].map(({ migration }) => migration) },
      incoming: {
        find: (id: string) => this.known.get(id),
        prepare: async (header: PeerHeader) => {
          await this.gate;
          if (!this.known.has(header.migrationId)) {
            this.known.set(header.migrationId, new FakeMigration(header));
          }
          return { journalId: 'j', features: [] };
        },
        exportDisks: async () => ({}),
        acceptRam: async () => ({ ticket: 't' }),
        shareIngress: async () => ({ bytesPerS: 0, ramTurn: false, validMs: 2_000 }),
      },
      audit: { record: (event: Omit<AuditEvent, 'time'>) => void this.events.push(event) },
    };
    return new LimitedArrivals(tools as unknown as LimitedTools);
  }
}

class FakeMigration {
  readonly migration: object;
  coming = true;
  blocks = '';
  short: DomainError | undefined;
  expired: MigrationError | undefined;

  constructor({ migrationId, sourceHost }: PeerHeader) {
    this.migration = { migrationId, sourceHost, destinationHost: 'host-b', state: 'RUNNING' };
  }

  written = async () => ({ mark: this.blocks, short: this.short });

  async expire(error: MigrationError): Promise<void> {
    this.expired = error;
    this.coming = false;
  }
}

const SPEC = {} as never;

describe('the limits of incoming migrations', () => {
  let half: FakeHalf;
  let arrivals: LimitedArrivals;
  const start = (limits: Partial<IncomingLimits>) => {
    arrivals = half.arrivals(limits);
    return arrivals;
  };

  beforeEach(() => {
    half = new FakeHalf();
    vi.useFakeTimers();
  });
  afterEach(() => {
    arrivals.close();
    vi.useRealTimers();
  });

  it('refuse a further one of a host, say which limit it is, and let other hosts go on', async () => {
    start({ incomingPerPeer: 2 });
    const headers = [fakeHeader(), fakeHeader()];
    for (const header of headers) await arrivals.prepare(header, SPEC);
    await expect(arrivals.prepare(fakeHeader(), SPEC)).rejects.toMatchObject({
      reason: 'LIMIT_REACHED',
      message: expect.stringContaining('limits.incoming_per_peer is 2'),
      facts: { limit: 'limits.incoming_per_peer', limit_value: 2 },
    });
    await arrivals.prepare(fakeHeader({ sourceHost: 'host-c' }), SPEC);
    // Asking again for one that is known is no further one.
    await arrivals.prepare(headers[0] as PeerHeader, SPEC);
    const first = half.known.get(headers[0]?.migrationId ?? '') as FakeMigration;
    first.coming = false;
    await arrivals.prepare(fakeHeader(), SPEC);
  });

  it('refuse a further one of any host where the host takes no more', async () => {
    start({ incoming: 2 });
    await arrivals.prepare(fakeHeader({ sourceHost: 'host-c' }), SPEC);
    await arrivals.prepare(fakeHeader({ sourceHost: 'host-d' }), SPEC);
    await expect(arrivals.prepare(fakeHeader(), SPEC)).rejects.toMatchObject({
      reason: 'LIMIT_REACHED',
      message: expect.stringContaining('limits.incoming is 2'),
    });
  });

  it('count those that are only being prepared, however many come at once', async () => {
    start({ incomingPerPeer: 3 });
    let open = () => {};
    half.gate = new Promise((resolve) => {
      open = resolve;
    });
    const answers = Array.from({ length: 10 }, () => arrivals.prepare(fakeHeader(), SPEC));
    open();
    const settled = await Promise.allSettled(answers);
    expect(settled.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
  });

  it('refuse a host that prepares and gives up again and again', async () => {
    start({});
    const attempt = async () => {
      const header = fakeHeader();
      await arrivals.prepare(header, SPEC);
      half.known.delete(header.migrationId);
    };
    for (let times = 0; times < 240; times++) await attempt();
    await expect(attempt()).rejects.toMatchObject({ reason: 'LIMIT_REACHED' });
    vi.advanceTimersByTime(61_000);
    await attempt();
  });

  it('refuse attempts without end', async () => {
    start({});
    await expect(arrivals.acceptRam(fakeHeader({ attempt: 33 }), 'direct')).rejects.toMatchObject({
      reason: 'LIMIT_REACHED',
    });
  });

  it('give up one whose source does nothing any more, whatever it answers', async () => {
    start({ leaseMs: 60_000 });
    const header = fakeHeader();
    await arrivals.prepare(header, SPEC);
    const migration = half.known.get(header.migrationId) as FakeMigration;
    await vi.advanceTimersByTimeAsync(30_000);
    await arrivals.exportDisks(header, 'direct');
    await vi.advanceTimersByTimeAsync(59_000);
    expect(migration.expired).toBeUndefined();
    // Saying the same again is no progress.
    await arrivals.exportDisks(header, 'direct');
    await arrivals.prepare(header, SPEC);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(migration.expired).toMatchObject({
      reason: 'STALLED',
      facts: { limit: 'limits.lease_ms', limit_ms: 60_000 },
    });
    expect(half.events).toMatchObject([
      { action: 'LEASE_EXPIRED', caller: 'host/host-a', subject: header.migrationId },
    ]);
  });

  it('keep one whose blocks or RAM go on coming', async () => {
    start({ leaseMs: 60_000 });
    const header = fakeHeader();
    await arrivals.prepare(header, SPEC);
    const migration = half.known.get(header.migrationId) as FakeMigration;
    for (let times = 0; times < 10; times++) {
      migration.blocks = `{"root":${times}}`;
      await vi.advanceTimersByTimeAsync(40_000);
    }
    expect(migration.expired).toBeUndefined();
    await vi.advanceTimersByTimeAsync(80_000);
    expect(migration.expired).toMatchObject({ reason: 'STALLED' });
  });

  it('keep one whose source waits for its turn and says so, but not for ever', async () => {
    start({ leaseMs: 60_000 });
    const header = fakeHeader();
    await arrivals.prepare(header, SPEC);
    const migration = half.known.get(header.migrationId) as FakeMigration;
    const ask = () => arrivals.shareIngress(header, { weight: 10, wantRamTurn: false });
    const waited = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += 500) {
        await vi.advanceTimersByTimeAsync(500);
        await ask();
      }
      return migration.expired?.reason;
    };
    await arrivals.exportDisks(header, 'direct');
    expect(await waited(6 * 60_000)).toBeUndefined();
    expect(await waited(2 * 60_000)).toBe('STALLED');
  });

  it('give up one whose source asks for its share before it has asked for anything else', async () => {
    start({ leaseMs: 60_000 });
    const header = fakeHeader();
    await arrivals.prepare(header, SPEC);
    for (let passed = 0; passed < 80; passed++) {
      await vi.advanceTimersByTimeAsync(1_000);
      await arrivals.shareIngress(header, { weight: 10, wantRamTurn: true });
    }
    const migration = half.known.get(header.migrationId) as FakeMigration;
    expect(migration.expired?.reason).toBe('STALLED');
  });

  it('give up one whose images take what its source did not announce, within a second', async () => {
    start({});
    const [liar, honest] = [fakeHeader(), fakeHeader()];
    await arrivals.prepare(liar, SPEC);
    await arrivals.prepare(honest, SPEC);
    const migration = half.known.get(liar.migrationId) as FakeMigration;
    migration.short = new DomainError('DISK_NO_SPACE', 'Too much.');
    await vi.advanceTimersByTimeAsync(1_000);
    expect(migration.expired).toBe(migration.short);
    expect(half.known.get(honest.migrationId)?.expired).toBeUndefined();
    expect(half.events).toMatchObject([
      { action: 'ROOM_EXCEEDED', reason: 'DISK_NO_SPACE', subject: liar.migrationId },
    ]);
  });

  it('leave one alone that has arrived, and one of which nothing is known', async () => {
    start({ leaseMs: 60_000 });
    const header = fakeHeader();
    await arrivals.prepare(header, SPEC);
    const migration = half.known.get(header.migrationId) as FakeMigration;
    migration.coming = false;
    await arrivals.exportDisks(fakeHeader({ migrationId: randomUUID() }), 'direct');
    await vi.advanceTimersByTimeAsync(600_000);
    expect(migration.expired).toBeUndefined();
    expect(half.events).toEqual([]);
  });
});

import { describe, expect, it } from 'vitest';
import { DomainError } from '../../src/domain/errors.js';
import type { IncomingDomain } from '../../src/domain/types.js';
import { DestinationContext } from '../../src/migration/destination-context.js';
import type { PeerCalls, PeerHeader } from '../../src/migration/peer.js';
import { SourcePeer } from '../../src/migration/source-peer.js';
import { Tracker } from '../../src/migration/tracker.js';
import { systemClock } from '../../src/util/clock.js';
import { deferred } from '../../src/util/deferred.js';
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
  destinationJournalId: 'two',
};

/** An incoming domain that notes what is done to it. */
class NotedDomain implements Partial<IncomingDomain> {
  readonly done: string[] = [];
  readonly writing = deferred();
  readonly written = deferred();
  readonly end = deferred<DomainError>();
  alive = true;
  mayHaveRun = false;

  get died(): Promise<DomainError> {
    return this.end.promise;
  }

  async own(): Promise<void> {
    this.done.push('own');
    this.writing.resolve();
    await this.written.promise;
  }

  async disown(): Promise<void> {
    this.done.push('disown');
  }

  async resume(): Promise<void> {
    this.done.push('resume');
    if (!this.alive) throw new DomainError('DEST_QEMU_DIED', 'It is gone.');
  }

  release(): void {
    this.done.push('release');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.done.push('dispose');
  }
}

async function loaded() {
  const incoming = new NotedDomain();
  const { migrationId, domainUuid, sourceHost, destinationHost } = header;
  const tracker = new Tracker(
    { migrationId, domainUuid, domainName: 'web', sourceHost, destinationHost },
    systemClock,
  );
  const source = new SourcePeer(header, {} as PeerCalls, silentLog);
  const context = new DestinationContext(header, tracker, source, silentLog);
  const domain = incoming as unknown as IncomingDomain;
  context.holds(domain);
  for (const phase of ['prepare', 'mirror', 'precopy', 'switchover'] as const) {
    await context.enter(phase);
  }
  await context.decide({ type: 'loaded' });
  return { incoming, domain, context };
}

describe('taking the guest', () => {
  it('is refused, after it was undone in writing, when QEMU dies while that is written', async () => {
    const { incoming, domain, context } = await loaded();
    const outcome = context.take(domain, { paused: false });
    await incoming.writing.promise;
    incoming.alive = false;
    incoming.end.resolve(new DomainError('DEST_QEMU_DIED', 'It is gone.'));
    await context.abort();
    expect(incoming.done, 'nothing is removed while it is written').toEqual(['own']);
    incoming.written.resolve();
    expect(await outcome).toMatchObject({ outcome: 'REFUSED' });
    expect(incoming.done).toEqual(['own', 'resume', 'disown', 'dispose']);
    expect(context.record).toBe('ABORTED');
  });

  it('is lost, and the images stay, when QEMU dies once the guest may have run', async () => {
    const { incoming, domain, context } = await loaded();
    incoming.written.resolve();
    incoming.alive = false;
    incoming.mayHaveRun = true;
    expect(await context.take(domain, { paused: false })).toEqual({ outcome: 'OWNED_LOST' });
    expect(incoming.done).toEqual(['own', 'resume', 'release']);
  });

  it('is refused once it was given up, however often it is asked', async () => {
    const { incoming, domain, context } = await loaded();
    await context.abort();
    const commit = () => context.take(domain, { paused: false });
    expect([await commit(), await commit()]).toMatchObject([
      { outcome: 'REFUSED' },
      { outcome: 'REFUSED' },
    ]);
    expect(incoming.done).not.toContain('own');
  });
});

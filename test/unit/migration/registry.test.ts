import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { MigrationRegistry } from '../../../src/migration/registry.js';
import { Tracker } from '../../../src/migration/tracker.js';
import { systemClock } from '../../../src/util/clock.js';

const KEPT = 1000;

function ended(sourceHost: string): Tracker {
  const [migrationId, domainUuid] = [randomUUID(), randomUUID()];
  const seed = { migrationId, domainUuid, domainName: 'web', sourceHost, destinationHost: 'here' };
  return new Tracker(seed, systemClock, { state: 'FAILED' });
}

describe('the migrations that an agent keeps in mind', () => {
  it('are forgotten of the host that has most of them, the oldest first', () => {
    const registry = new MigrationRegistry();
    const quiet = ended('quiet');
    registry.add(quiet);
    const loud = Array.from({ length: 2 * KEPT }, () => ended('loud'));
    for (const tracker of loud) registry.add(tracker);
    expect(registry.has(quiet.now.migrationId)).toBe(true);
    expect(registry.list('')).toHaveLength(KEPT);
    expect(registry.has(loud[KEPT]?.now.migrationId ?? '')).toBe(false);
    expect(registry.has(loud[KEPT + 1]?.now.migrationId ?? '')).toBe(true);
  });

  it('are not forgotten while they go on, or while their peer may ask', () => {
    const registry = new MigrationRegistry();
    const asked = ended('loud');
    registry.add(asked, () => false);
    const going = ended('loud');
    going.update({ state: 'RUNNING' });
    registry.add(going);
    for (let i = 0; i < 2 * KEPT; i++) registry.add(ended('loud'));
    expect(registry.has(asked.now.migrationId)).toBe(true);
    expect(registry.has(going.now.migrationId)).toBe(true);
  });

  it('tell whoever listens of each that is forgotten, and its id is free then', () => {
    const registry = new MigrationRegistry();
    const forgotten: string[] = [];
    registry.onForget(({ migrationId }) => forgotten.push(migrationId));
    const { migrationId } = ended('a').now;
    const tracker = ended('a');
    registry.add(tracker);
    registry.forget(tracker.now.migrationId);
    expect(forgotten).toEqual([tracker.now.migrationId]);
    expect(registry.has(tracker.now.migrationId)).toBe(false);
    expect(() => registry.forget(migrationId)).toThrow(
      expect.objectContaining({ reason: 'MIGRATION_NOT_FOUND' }),
    );
  });

  it('tell whoever listens of each that ends, once, and of none that had ended before', () => {
    const registry = new MigrationRegistry();
    const ends: string[] = [];
    registry.onEnd(({ migrationId, state }) => ends.push(`${migrationId} ${state}`));
    registry.add(ended('a'));
    const seed = { ...ended('a').now };
    const tracker = new Tracker(seed, systemClock);
    registry.add(tracker);
    tracker.enter('prepare');
    tracker.update({ state: 'IN_DOUBT' });
    expect(ends).toEqual([]);
    tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
    tracker.end({ state: 'FAILED', runningOn: 'SOURCE' });
    tracker.update({ state: 'FAILED' });
    expect(ends).toEqual([`${seed.migrationId} SUCCEEDED`]);
  });
});

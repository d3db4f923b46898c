import { describe, expect, it } from 'vitest';
import { splitDowntime } from '../../src/migration/downtime.js';
import { mayFollow, PHASES, type Phase } from '../../src/migration/phase.js';
import { Tracker } from '../../src/migration/tracker.js';
import { systemClock } from '../../src/util/clock.js';

const seed = {
  migrationId: '00000000-0000-4000-8000-000000000001',
  domainUuid: '00000000-0000-4000-8000-000000000002',
  domainName: 'web',
  sourceHost: 'alpha',
  destinationHost: 'beta',
};

describe('a tracker', () => {
  it('refuses a phase out of order', () => {
    const tracker = new Tracker(seed, systemClock);
    expect(() => tracker.enter('precopy')).toThrow('may not follow');
    tracker.enter('prepare');
    expect(() => tracker.enter('switchover')).toThrow('may not follow');
  });

  it('closes the time of a phase when the next one begins, and when the migration ends', () => {
    const tracker = new Tracker(seed, systemClock);
    tracker.enter('prepare');
    tracker.enter('mirror');
    expect(tracker.now.phaseTimes.map((time) => time.endTime !== undefined)).toEqual([true, false]);
    tracker.end({ state: 'FAILED', runningOn: 'SOURCE' });
    expect(tracker.now.phaseTimes.every((time) => time.endTime)).toBe(true);
    expect(tracker.now.cancellable).toBe(false);
  });

  it('lets revisions only grow, and never changes after the end', () => {
    const tracker = new Tracker(seed, systemClock);
    const first = tracker.now.revision;
    tracker.update({ disks: [] });
    expect(tracker.now.revision).toBe(first + 1);
    tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
    tracker.end({ state: 'FAILED', runningOn: 'SOURCE' });
    expect(tracker.now.state).toBe('SUCCEEDED');
  });

  it('gives a slow watcher the newest state and always the last one', async () => {
    const tracker = new Tracker(seed, systemClock);
    const watch = tracker.watch(new AbortController().signal);
    expect((await watch.next()).value?.revision).toBe(1);
    for (let i = 0; i < 10; i++) tracker.update({});
    tracker.end({ state: 'SUCCEEDED', runningOn: 'DESTINATION' });
    const last = await watch.next();
    expect(last.value?.state).toBe('SUCCEEDED');
    expect((await watch.next()).done).toBe(true);
  });

  it('ends a watch when the watcher leaves', async () => {
    const tracker = new Tracker(seed, systemClock);
    const controller = new AbortController();
    const watch = tracker.watch(controller.signal);
    await watch.next();
    const pending = watch.next();
    controller.abort();
    expect((await pending).done).toBe(true);
  });
});

describe('the downtime', () => {
  it('is the sum of its parts, even where a moment overtook another', () => {
    const moments = {
      stopped: 1000,
      settled: 1500,
      completed: 4000,
      loaded: 3900,
      committed: 4100,
      resumed: 6000,
    };
    const downtime = splitDowntime(moments, 300);
    const { totalUs, safetyUs, ...parts } = downtime;
    expect(totalUs).toBe(5000);
    expect(Object.values(parts).reduce((sum, part) => sum + part, 0)).toBe(totalUs);
    expect(downtime.loadUs).toBe(0);
    expect(safetyUs, 'what giving the guest up took, and what else').toBe(100 + 300);
  });
});

describe('the phases', () => {
  it('form one line from prepare to cleanup that holds all seven steps', () => {
    let phase: Phase | undefined;
    const steps: number[] = [];
    for (const next of Object.keys(PHASES) as Phase[]) {
      expect(mayFollow(phase, next)).toBe(true);
      steps.push(...PHASES[next].seedSteps);
      phase = next;
    }
    expect([...new Set(steps)].sort()).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });
});

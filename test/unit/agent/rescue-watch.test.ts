import { describe, expect, it } from 'vitest';
import { AgentWatch, type Verdict } from '../../../src/agent/rescue-watch.js';
import type { Sighting } from '../../../src/process/lock-watch.js';

const here = (pid = 7): Sighting => ({
  state: 'here',
  holder: { pid, startTime: pid, bootId: 'b', alive: true },
});
const stopped: Sighting = { ...here(), state: 'stopped' };
const gone: Sighting = { state: 'gone', holder: undefined };

/** Looks every 100 ms for some time; answers the verdicts, each once where it comes repeatedly. */
function watcher() {
  const watch = new AgentWatch();
  let nowMs = 1_000;
  return {
    watch,
    see(sighting: Sighting, forMs: number): readonly Verdict[] {
      const verdicts: Verdict[] = [];
      for (const endMs = nowMs + forMs; nowMs < endMs; nowMs += 100) {
        const verdict = watch.see(sighting, nowMs);
        if (verdicts.at(-1) !== verdict) verdicts.push(verdict);
      }
      return verdicts;
    },
    /** Nobody looks for that long. */
    sleep(forMs: number) {
      nowMs += forMs;
    },
  };
}

describe('an agent, as its rescue process sees it,', () => {
  it('is well as long as it is there', () => {
    const { see } = watcher();
    expect(see(here(), 60_000)).toEqual(['well']);
  });

  it('is gone when it has been away for two seconds, and not before', () => {
    const { see } = watcher();
    see(here(), 1_000);
    expect(see(gone, 2_000)).toEqual(['waiting']);
    expect(see(gone, 100)).toEqual(['gone']);
    expect(see(gone, 60_000)).toEqual(['gone']);
  });

  it('is well again when it comes back in time', () => {
    const { see } = watcher();
    see(here(7), 1_000);
    expect(see(gone, 1_500)).toEqual(['waiting']);
    expect(see(here(8), 20_000)).toEqual(['well']);
    expect(see(gone, 1_500)).toEqual(['waiting']);
  });

  it('is gone at its next absence when it comes back only to end again', () => {
    const { see } = watcher();
    see(here(7), 1_000);
    expect(see(gone, 500)).toEqual(['waiting']);
    expect(see(here(8), 800)).toEqual(['well']);
    expect(see(gone, 500)).toEqual(['waiting']);
    expect(see(here(9), 1_000)).toEqual(['well']);
    expect(see(gone, 100)).toEqual(['gone']);
  });

  it('gets no patience from coming back for so short that hardly a look finds it', () => {
    const { see } = watcher();
    see(here(7), 1_000);
    const verdicts = Array.from({ length: 12 }, (_, i) => [
      ...see(gone, 100),
      ...see(here(8 + i), 100),
    ]);
    expect(verdicts.at(0)).toEqual(['waiting', 'well']);
    expect(verdicts.at(-1)).toEqual(['gone', 'well']);
  });

  it('is stopped when it has been so for two seconds on end', () => {
    const { see } = watcher();
    see(here(), 1_000);
    expect(see(stopped, 1_500)).toEqual(['waiting']);
    expect(see(here(), 200)).toEqual(['well']);
    expect(see(stopped, 2_000)).toEqual(['waiting']);
    expect(see(stopped, 100)).toEqual(['stopped']);
  });

  it('is not gone because nobody has looked for a while', () => {
    const { see, sleep } = watcher();
    see(here(), 1_000);
    sleep(3_600_000);
    expect(see(gone, 1_300)).toEqual(['waiting']);
    sleep(3_600_000);
    expect(see(gone, 100)).toEqual(['waiting']);
    expect(see(gone, 500)).toEqual(['waiting', 'gone']);
  });

  it('is looked at more often while it may come back for a moment', () => {
    const { see, watch } = watcher();
    see(here(), 1_000);
    expect(watch.pauseMs).toBe(200);
    see(gone, 500);
    expect(watch.pauseMs).toBe(100);
    see(gone, 70_000);
    expect(watch.pauseMs).toBe(200);
  });
});

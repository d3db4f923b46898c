import { afterAll, describe, expect, it } from 'vitest';
import type { AgentConfig } from '../../src/agent/config.js';
import { DEFAULT_LIMITS } from '../../src/agent/limits.js';
import { FakeFleet } from '../support/fake-fleet.js';
import type { FaultAction } from '../support/fake-qemu/faults.js';
import { die, dropMonitors, refuse } from '../support/fake-qemu.js';
import { migrate } from '../support/fleet.js';
import { MovingGuest, type Outcome } from '../support/moving-guest.js';

/*
 * One fault at every command that a migration sends to either QEMU: whatever happens, the guest is
 * in one place, nothing of the migration is left, and the next one succeeds. The commands are those
 * of a run without faults, made first, so that a new command is tried without anybody's thinking of
 * it.
 */

type Side = 'source' | 'destination';

interface Point {
  readonly side: Side;
  readonly command: string;
  /** Counts the same command within one run, from 1. */
  readonly nth: number;
}

const FAULTS = {
  'is refused': { action: refuse('The fault of this test'), when: 'before' },
  'kills QEMU': { action: die, when: 'before' },
  'kills QEMU once done': { action: die, when: 'after' },
  'drops the monitor': { action: dropMonitors, when: 'before' },
  'drops the monitor once done': { action: dropMonitors, when: 'after' },
} as const;

type FaultName = keyof typeof FAULTS;

/** Nothing changes by a question, so that its time before and after is the same. */
const FAULTS_OF_A_QUESTION: readonly FaultName[] = [
  'is refused',
  'kills QEMU',
  'drops the monitor',
];

/**
 * Asked again and again while something is waited for: from so many times on, what a fault means
 * depends on how fast that is. What counts at the end is asked together with `query-status`.
 */
const STEADY: Readonly<Record<string, number>> = {
  'query-blockstats': 0,
  'query-block-jobs': 1,
  'query-migrate': 2,
};

const LOOKS_FOR_LEFTOVERS = new Set([
  'source query-jobs 1',
  'source query-named-block-nodes 3',
  'source qom-list 3',
]);

/** Limits that are told once more when something changes, and the RAM's key once RAM has come. */
const NOT_NEEDED = new Set([
  'source migrate-set-parameters 2',
  'destination migrate-set-parameters 2',
  'destination object-del 1',
  'destination object-del 3',
]);

function faultsAt({ command, nth }: Point): readonly FaultName[] {
  if (/^(query-|qom-list)/.test(command)) return FAULTS_OF_A_QUESTION;
  // The second time is the second disk's.
  return nth === 1 ? (Object.keys(FAULTS) as FaultName[]) : ['is refused'];
}

/** What differs from the rule, and why. */
function expected({ side, command, nth }: Point, fault: FaultName): Outcome {
  const kills = fault.startsWith('kills');
  const drops = fault.startsWith('drops');
  const point = `${side} ${command} ${nth}`;
  // What the mirrors of an earlier life left is looked for; without an answer there is nothing.
  if (LOOKS_FOR_LEFTOVERS.has(point) && !kills && !drops) return 'moves';
  // The guest is on the destination already: the source's QEMU may end as it likes.
  if (point === 'source quit 1') return 'moves';
  if (fault === 'is refused' && NOT_NEEDED.has(point)) return 'moves';
  // RAM that cannot begin is begun once more, into another QEMU.
  if (fault === 'is refused' && point === 'source getfd 1') return 'moves';
  // The images are locked when nothing can bring the guest back any more.
  if (side === 'source' && command === 'blockdev-set-active') return 'moves';
  // From `cont` on the guest may have run there, so its images are the ones that count.
  if (['destination cont 1', 'destination query-status 3'].includes(point)) {
    if (kills) return 'is down on the destination';
    return command === 'cont' && !drops ? 'stays' : 'moves';
  }
  // Nothing hangs on the announcement, and the source has been told by then.
  if (point === 'destination announce-self 1') {
    return kills ? 'is down on the destination' : 'moves';
  }
  if (side === 'source') return kills ? 'is down on the source' : 'stays';
  return 'stays';
}

// A migration takes less than a tenth of a second here.
const limits = { ...DEFAULT_LIMITS, preparesPerMinute: 100_000 };
const config = (_host: string, given: AgentConfig) => ({ ...given, limits });
const hosts = await FakeFleet.start(['alpha', 'beta'], { config });
afterAll(() => hosts[Symbol.asyncDispose]());
const points = await pointsOfOneRun();

describe('one fault at each command of a migration', () => {
  for (const side of ['source', 'destination'] as const) {
    describe(`of QEMU on the ${side}`, () => {
      const cases = points
        .filter((point) => point.side === side)
        .flatMap((point) =>
          faultsAt(point).map((fault) => ({
            point,
            fault,
            title: `${point.command} (${point.nth}) ${fault}: the guest ${expected(point, fault)}`,
            outcome: expected(point, fault),
          })),
        );
      it.each(cases)('$title', async ({ point, fault, outcome }) => {
        await using guest = await MovingGuest.run(hosts);
        const { action, when } = FAULTS[fault];
        const struck = breakAt(point, when, action);
        const ended = await migrate(hosts.host('alpha'), guest.name, 'beta');
        hosts.launcher('alpha').faults.clear();
        hosts.launcher('beta').faults.clear();
        expect(struck(), 'the fault happened').toBe(true);
        await guest.expect(outcome, ended);
      });
    });
  }
});

/** Plans a fault for the nth time that a command comes; the answer tells whether it did. */
function breakAt(
  { side, command, nth }: Point,
  when: 'before' | 'after',
  action: FaultAction,
): () => boolean {
  let times = 0;
  hosts.launcher(side === 'source' ? 'alpha' : 'beta').faults.add({
    at: { command },
    when,
    times: nth,
    action: (qemu) => (++times === nth ? action(qemu) : undefined),
  });
  return () => times === nth;
}

async function pointsOfOneRun(): Promise<Point[]> {
  await using guest = await MovingGuest.run(hosts);
  const before = guest.source.received.length;
  const { failure } = await migrate(hosts.host('alpha'), guest.name, 'beta');
  expect(failure).toBeUndefined();
  const [destination] = hosts.launcher('beta').alive;
  const all = [
    ...numbered('source', guest.source.received.slice(before)),
    ...numbered('destination', destination?.received ?? []),
  ];
  return all.filter(({ command, nth }) => nth <= (STEADY[command] ?? Number.POSITIVE_INFINITY));
}

function numbered(side: Side, received: readonly { readonly command: string }[]): Point[] {
  const times = new Map<string, number>();
  return received.map(({ command }) => {
    const nth = (times.get(command) ?? 0) + 1;
    times.set(command, nth);
    return { side, command, nth };
  });
}

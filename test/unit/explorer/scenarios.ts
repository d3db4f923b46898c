import { stepDestination, stepSource } from '../../../src/migration/handover.js';
import type { Mishap, Rules } from './moves.js';
import type { Layout } from './world.js';

const THERE: Layout = { hosts: 2, hostOf: [0, 1], legs: [{ from: 0, to: 1 }] };
const AND_BACK: Layout = {
  hosts: 2,
  hostOf: [0, 1, 0],
  legs: [
    { from: 0, to: 1 },
    { from: 1, to: 2 },
  ],
};
const ONWARD: Layout = { ...AND_BACK, hosts: 3, hostOf: [0, 1, 2] };
const AGAIN: Layout = {
  hosts: 2,
  hostOf: [0, 1, 1],
  legs: [
    { from: 0, to: 1 },
    { from: 0, to: 2 },
  ],
};

function rules(
  layout: Layout,
  faults: number,
  more: Partial<Rules> & { mishap?: Mishap[] },
): Rules {
  const { mishap = [], ...rest } = more;
  return {
    layout,
    faults,
    resolves: 0,
    mishaps: new Set<Mishap>(mishap),
    lies: false,
    flaws: new Set<string>(),
    idle: false,
    after: [],
    stepSource,
    stepDestination,
    ...rest,
  };
}

/** The way to a source that is about to write COMMITTED. */
export const COMMITTING: readonly string[] = [
  ...['destination: prepares', 'source: sees it prepared', 'source writes DST_PREPARED'],
  ...['source: mirrors', 'QEMU: the source stops before the switchover'],
  ...['source: begins to switch over', 'source writes SWITCHING', 'source: settles the mirrors'],
  ...['source: continues', 'QEMU: the destination has loaded', 'destination: is loaded'],
  ...['destination writes LOADED', 'QEMU: the source has completed', 'source: has the vote'],
];

/** What is explored, one after the other rather than as one product. */
export const SCENARIOS = {
  'one migration': rules(THERE, 4, { mishap: ['power'] }),
  'disks that lie about a flush': rules(THERE, 2, { mishap: ['power', 'lying-disk'] }),
  'state directories from a backup': rules(THERE, 2, {
    mishap: ['power', 'restored'],
    resolves: 1,
  }),
  'journals that cannot be written': rules(THERE, 2, { mishap: ['power', 'broken-journal'] }),
  'a person decides': rules(THERE, 3, { mishap: ['power'], resolves: 2 }),
  'a person decides, wrongly': rules(THERE, 2, { mishap: ['power'], resolves: 2, lies: true }),
  'a host is lost for ever': rules(THERE, 2, { mishap: ['power', 'lost-host'], resolves: 3 }),
  'there and back': rules(AND_BACK, 1, {
    mishap: ['power'],
    resolves: 1,
  }),
  'onward to a third host': rules(ONWARD, 1, {
    mishap: ['power'],
    resolves: 1,
  }),
  'a second try': rules(AGAIN, 1, { mishap: ['power'] }),
} as const satisfies Record<string, Rules>;

export type ScenarioName = keyof typeof SCENARIOS;

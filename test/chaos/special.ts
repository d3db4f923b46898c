import type { Fault } from './faults.js';
import { FAULTS } from './faults.js';
import type { FleetSetup } from './fleet.js';
import type { Point } from './points.js';
import { Random } from './random.js';
import type { Cell } from './run.js';

const MIB = 1024 ** 2;
const MIRROR_DATA_MIB = 96;
/** Makes the copying of that take about three seconds. */
const MIRROR_BANDWIDTH = 32 * MIB;
/**
 * The guest has little RAM that is not zeros, so it is sent slowly: an agent takes two or three
 * seconds to start again, and of a real guest no more than a small part is sent in that time.
 */
const RAM_BANDWIDTH = 52_000;
const RAM_BYTES = MIB / 2;
const FULL_SPEED = 1024 ** 4;
/** Later than that, the rest would be sent before the agent is there again. */
const LAST_PART = 0.6;

/** Kills of agents, counted by themselves because there is a figure that each must reach. */
export type Special = 'kill-mirror' | 'kill-precopy' | 'kill-window';

/** What the hosts of a special run are to be like. */
export function specialSetup(special: Special, setup: FleetSetup): FleetSetup {
  if (special === 'kill-precopy') return { ...setup, ramBandwidth: RAM_BANDWIDTH };
  if (special !== 'kill-mirror') return setup;
  return { ...setup, diskMib: MIRROR_DATA_MIB + 8, dataMib: MIRROR_DATA_MIB };
}

/** The runs: the two agents are killed in turn, at moments that depend on the seed. */
export function specialCells(
  special: Special,
  count: number,
  points: readonly Point[],
  seed: string,
): Cell[] {
  const random = new Random(seed, special);
  const window = points.filter(({ phase }) => phase === 'switchover' || phase === 'handover');
  return Array.from({ length: count }, (_, index) => {
    const fault = killOf(index % 2 === 0 ? 'source' : 'destination');
    const own = `${seed}.${special}.${index + 1}`;
    const part = 0.05 + 0.9 * random.next();
    if (special === 'kill-window') return { point: random.pick(window), fault, seed: own };
    const [traffic, bytes, maxBandwidth] =
      special === 'kill-mirror'
        ? (['nbd', MIRROR_DATA_MIB * MIB, MIRROR_BANDWIDTH] as const)
        : (['ram', LAST_PART * RAM_BYTES, 0] as const);
    const after = { traffic, bytes: Math.round(part * bytes) };
    return { point: undefined, fault, seed: own, after, maxBandwidth };
  });
}

/** The agent comes back at once: how long it takes from there is what is measured. */
function killOf(side: 'source' | 'destination'): Fault {
  const fault = FAULTS.find(({ name }) => name === `kill-${side}-agent`);
  if (!fault) throw new Error('There is no such fault.');
  return {
    ...fault,
    repair: async ({ fleet, source, destination }) => {
      await fleet.host(side === 'source' ? source : destination).start();
      // As slowly as it went until now, a guest that writes to its RAM never gets done. The next life
      // of a source's agent has no orders: it lifts the limit when it has found its stream.
      if (fleet.setup.ramBandwidth === undefined || side === 'source') return;
      await fleet.host(source).order([]);
      const full = { 'max-bandwidth': FULL_SPEED };
      await fleet
        .host(source)
        .monitor(fleet.uuid, async (qmp) => await qmp.execute('migrate-set-parameters', full));
    },
  };
}

import { setTimeout as delay } from 'node:timers/promises';
import type { Reason } from '../../src/util/reasons.js';
import type { ChaosFleet, HostName } from './fleet.js';
import { type ChaosHost, signal } from './host.js';
import type { Point, Side } from './points.js';
import type { Action, DiskFault } from './protocol.js';
import type { Direction, Traffic } from './proxy.js';
import type { Random } from './random.js';

const STALL_MS = 20_000;
const ENOSPC = 28;
const EIO = 5;

/** Where a guest may be when all is over. */
export type Place = 'source' | 'destination' | 'source down' | 'destination down';

/** A migration at the moment at which a fault strikes it. */
export interface Strike {
  readonly fleet: ChaosFleet;
  readonly source: HostName;
  readonly destination: HostName;
  readonly migrationId: string;
  readonly random: Random;
  /** Processes that stand still and must be let go on. */
  readonly stopped: number[];
  /** True once the destination was told to let the guest run. */
  guestMoved(): boolean;
}

/** One kind of fault. */
export interface Fault {
  readonly name: string;
  /** What the faults of one kind have in common, for the table. */
  readonly kind: string;
  /** Where it can strike; a fault without this strikes no point but the whole migration. */
  readonly at?: (point: Point) => boolean;
  /** What the agent does that comes to the point; by default it stands still meanwhile. */
  readonly action?: (random: Random) => Action;
  readonly disks?: (random: Random) => DiskFault;
  readonly inject?: (strike: Strike) => Promise<void>;
  readonly repair?: (strike: Strike) => Promise<void>;
  /** Where the guest may be afterwards. Default: running on either host. */
  readonly places?: readonly Place[];
  /** Reasons that fit the fault, besides its being none of the migration's business. */
  readonly reasons: readonly Reason[];
  readonly pausesGuest?: boolean;
  readonly restartsGuest?: boolean;
  /** True where the hosts are of no use for another run afterwards. */
  readonly spoilsHosts?: boolean;
  /** True where a run takes much longer than others. */
  readonly slow?: boolean;
}

const LOST_PEER: readonly Reason[] = [
  'PEER_LOST',
  'PEER_UNREACHABLE',
  'RAM_FAILED',
  'MIRROR_FAILED',
  'STALLED',
];

const anywhere = () => true;
const atCalls = ({ name }: Point) => name.startsWith('call ');
const beforeCalls = (point: Point) => atCalls(point) && point.name.endsWith(' before');
const sideOf = ({ fleet, source, destination }: Strike, side: Side): ChaosHost =>
  fleet.host(side === 'source' ? source : destination);

/** Brings an agent back, at once or after three seconds. */
async function restart(strike: Strike, side: Side): Promise<void> {
  if (strike.random.next() < 0.25) await delay(3_000);
  await sideOf(strike, side).start();
}

function kills(side: Side): Fault[] {
  const places: readonly Place[] =
    side === 'source' ? ['source down', 'destination'] : ['source', 'destination down'];
  const died: Reason = side === 'source' ? 'SOURCE_QEMU_DIED' : 'DEST_QEMU_DIED';
  return [
    {
      name: `kill-${side}-agent`,
      kind: 'kill -9 of an agent',
      at: anywhere,
      inject: (strike) => sideOf(strike, side).killAgent(),
      repair: (strike) => restart(strike, side),
      reasons: [...LOST_PEER, 'AGENT_RESTARTED'],
    },
    {
      name: `kill-${side}-qemu`,
      kind: 'kill -9 of a QEMU',
      at: anywhere,
      inject: async (strike) => {
        for (const pid of sideOf(strike, side).qemuPids()) signal(pid, 'SIGKILL');
      },
      places: [...places, 'source', 'destination'],
      reasons: [died, 'MIRROR_FAILED', 'RAM_FAILED', 'GUEST_STOPPED'],
    },
    {
      name: `kill-${side}-host`,
      kind: 'kill -9 of a whole host',
      spoilsHosts: true,
      at: anywhere,
      inject: async (strike) => {
        const host = sideOf(strike, side);
        await host.losePower();
        await host.boot();
      },
      repair: (strike) => restart(strike, side),
      places,
      reasons: [...LOST_PEER, 'AGENT_RESTARTED', died],
    },
  ];
}

function stalls(side: Side): Fault[] {
  const pidsOf = {
    agent: (host: ChaosHost) => [host.agentPid],
    qemu: (host: ChaosHost) => host.qemuPids(),
    host: (host: ChaosHost) => [host.agentPid, ...host.pids()],
  };
  return (['agent', 'qemu', 'host'] as const).map((what) => ({
    name: `stop-${side}-${what}`,
    kind: 'SIGSTOP for 20 s',
    at: anywhere,
    slow: true,
    inject: async (strike) => {
      strike.stopped.push(...pidsOf[what](sideOf(strike, side)));
      for (const pid of strike.stopped) signal(pid, 'SIGSTOP');
    },
    repair: async ({ stopped }) => {
      await delay(STALL_MS);
      for (const pid of stopped) signal(pid, 'SIGCONT');
    },
    // An agent that stands still while its guest waits is ended by its rescue process.
    reasons: [...LOST_PEER, 'AGENT_RESTARTED', 'SOURCE_QEMU_DIED', 'DEST_QEMU_DIED'],
  }));
}

function links(traffic: Traffic): Fault[] {
  const ways = ({ fleet, source, destination }: Strike) =>
    traffic === 'control'
      ? [fleet.way(source, traffic), fleet.way(destination, traffic)]
      : [fleet.way(source, traffic)];
  const swallow = (direction: Direction): Fault => ({
    name: `blackhole-${traffic}-${direction}`,
    kind: `${traffic} link blackhole`,
    at: anywhere,
    inject: async (strike) => {
      const [there, back] = ways(strike);
      there?.swallow(direction);
      const opposite = { forth: 'back', back: 'forth', both: 'both' } as const;
      back?.swallow(opposite[direction]);
    },
    repair: async ({ fleet, random }) => {
      await delay(random.pick([300, 300, 1_000, 1_000, 3_000, 12_000]));
      fleet.heal();
    },
    reasons: LOST_PEER,
  });
  return [
    {
      name: `reset-${traffic}`,
      kind: `${traffic} link reset`,
      at: anywhere,
      inject: async (strike) => {
        for (const way of ways(strike)) way.reset();
      },
      reasons: LOST_PEER,
    },
    ...(['forth', 'back', 'both'] as const).map(swallow),
  ];
}

const messages: readonly Fault[] = [
  {
    name: 'lose',
    kind: 'lost request or reply',
    at: atCalls,
    action: () => ({ type: 'lose' }),
    reasons: LOST_PEER,
  },
  {
    name: 'late',
    kind: 'late request',
    at: beforeCalls,
    action: (random) => ({ type: 'late', delayMs: random.pick([50, 500, 2_000]) }),
    reasons: LOST_PEER,
  },
  {
    name: 'duplicate',
    kind: 'duplicated request',
    at: beforeCalls,
    action: () => ({ type: 'duplicate' }),
    reasons: LOST_PEER,
  },
  {
    name: 'delay',
    kind: 'delayed request or reply',
    at: atCalls,
    action: (random) => ({ type: 'delay', delayMs: random.pick([300, 1_000, 5_000]) }),
    reasons: LOST_PEER,
  },
];

const BAD_DISK: readonly Reason[] = ['MIRROR_FAILED', 'DISK_IO_ERROR', 'DISK_NO_SPACE', 'STALLED'];

function badDisk(name: string, kind: string, disks: (random: Random) => DiskFault): Fault {
  return { name, kind, disks, reasons: [...BAD_DISK, 'RAM_FAILED', 'VMSTATE_INCOMPATIBLE'] };
}

const fromWrite = (random: Random) => random.pick([1, 2, 5, 12, 30, 60]);
const disks: readonly Fault[] = [
  badDisk('enospc-destination', 'disk full on the destination', (random) => ({
    type: 'errors',
    errno: ENOSPC,
    fromWrite: fromWrite(random),
  })),
  badDisk('eio-destination', 'EIO on the destination', (random) => ({
    type: 'errors',
    errno: EIO,
    fromWrite: fromWrite(random),
  })),
  badDisk('flush-eio-destination', 'EIO on the destination', () => ({
    type: 'flush-errors',
    errno: EIO,
  })),
  {
    ...badDisk('slow-destination', 'slow disk on the destination', (random) => ({
      type: 'slow',
      operationsPerSecond: random.pick([20, 50, 200]),
    })),
    reasons: [...BAD_DISK, 'DOWNTIME_OVER_LIMIT', 'WILL_NOT_CONVERGE'],
  },
];

const journals: readonly Fault[] = (['ENOSPC', 'EIO'] as const).map((code) => ({
  name: `journal-${code.toLowerCase()}`,
  kind: `journal ${code}`,
  // A full disk shows when a record is written, a broken one when it is made durable.
  at: ({ name }) =>
    name.startsWith(`journal ${code === 'EIO' ? 'sync' : 'write'}`) && !/after/.test(name),
  action: () => ({ type: 'fail', code }),
  // What cannot be written for one life of an agent may be for the next.
  repair: async (strike) => {
    await delay(1_000);
    for (const side of ['source', 'destination'] as const) {
      await sideOf(strike, side).killAgent();
      await sideOf(strike, side).start();
    }
  },
  // Who cannot know whether it has taken the guest must not give it back, and cannot let it run.
  places: ['source', 'destination', 'destination down'],
  reasons: ['JOURNAL_FAILED', 'AGENT_RESTARTED', 'DEST_QEMU_DIED', ...LOST_PEER],
}));

/** Does something to the guest, in the QEMU in which it is or may be. */
async function toGuest(strike: Strike, line: string): Promise<void> {
  const { fleet, source, destination } = strike;
  const host = fleet.host(strike.guestMoved() ? destination : source);
  await host
    .monitor(fleet.uuid, async (qmp) => {
      if (line === 'stop') await qmp.execute('stop');
      else await qmp.execute('human-monitor-command', { 'command-line': line });
    })
    // A QEMU that has ended or stands still is one in which nothing can be done to the guest.
    .catch(() => undefined);
}

const people: readonly Fault[] = [
  {
    name: 'cancel',
    kind: 'cancelled by an operator',
    at: anywhere,
    inject: async ({ fleet, source, migrationId }) => {
      const { migrations } = fleet.host(source).client;
      // Not waited for: the agent may stand still at the very point.
      migrations.cancelMigration({ migrationId }).catch(() => undefined);
      await delay(5);
    },
    reasons: ['CANCELLED_BY'],
  },
  {
    name: 'guest-reset',
    kind: 'guest resets',
    at: anywhere,
    inject: (strike) => toGuest(strike, 'system_reset'),
    restartsGuest: true,
    // A reset right before the guest is given up takes the fence away.
    reasons: ['RAM_FAILED'],
  },
  {
    name: 'guest-pause',
    kind: 'guest paused by its user',
    at: anywhere,
    inject: (strike) => toGuest(strike, 'stop'),
    pausesGuest: true,
    reasons: [],
  },
  {
    name: 'guest-poweroff',
    kind: 'guest powers off',
    at: anywhere,
    // What a guest does to turn a machine of this type off: it writes to a port of its chipset.
    inject: (strike) => toGuest(strike, 'o /w 0x604 0x2000'),
    places: ['source down', 'destination down', 'destination', 'source'],
    reasons: ['GUEST_STOPPED', 'SOURCE_QEMU_DIED', 'DEST_QEMU_DIED'],
  },
];

/** Every fault, in the order of the table. */
export const FAULTS: readonly Fault[] = [
  ...(['source', 'destination'] as const).flatMap(kills),
  ...(['source', 'destination'] as const).flatMap(stalls),
  ...(['control', 'nbd', 'ram'] as const).flatMap(links),
  ...messages,
  ...disks,
  ...journals,
  ...people,
];

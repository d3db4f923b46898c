import type { MoverName } from './movers/mover.js';
import type { GuestPlan } from './stage/guest-plan.js';
import type { Link } from './stage/network.js';

/** One situation in which guests are moved. */
export interface Scenario {
  readonly name: string;
  /** For tables. */
  readonly title: string;
  readonly link: Link;
  readonly guest: GuestPlan;
  readonly movers: readonly MoverName[];
  /** Guests that are moved together; default 1. */
  readonly guests?: number;
  /** Default: together. */
  readonly order?: 'row' | 'together';
  /** A new guest for each move, because moving changes what is measured. */
  readonly fresh?: boolean;
  readonly gentle?: boolean;
  /** Milliseconds before each move in which the guest is watched; default 500. */
  readonly baselineMs?: number;
  /** How often, where not as often as asked for. */
  readonly rounds?: number;
  /** How often the ones that are compared in pairs, where more often. */
  readonly pairs?: { readonly rounds: number; readonly movers: readonly MoverName[] };
}

const GIGABIT: Link = { bitsPerS: 1e9, delayMs: 0 };
const SLOW: Link = { bitsPerS: 2e8, delayMs: 0 };
const FAR: Link = { bitsPerS: 1e9, delayMs: 10 };

const IDLE: GuestPlan = {
  memoryMib: 160,
  disks: [{ sizeMib: 512, dataMib: 320, zeroMib: 0 }],
  beatMs: 5,
  writes: { pauseMs: 20, kib: 4, spanMib: 4 },
};
const SMALL: GuestPlan = { ...IDLE, disks: [{ sizeMib: 256, dataMib: 112, zeroMib: 0 }] };
const TINY: GuestPlan = {
  ...IDLE,
  memoryMib: 112,
  disks: [{ sizeMib: 64, dataMib: 24, zeroMib: 0 }],
  beatMs: 50,
  writes: { pauseMs: 250, kib: 4, spanMib: 4 },
};
const BUSY_DISK: GuestPlan = {
  ...SMALL,
  writes: { pauseMs: 0, kib: 16, spanMib: 32 },
};

const LIBVIRTS = ['libvirt', 'libvirt-tls', 'libvirt-sync'] as const;
const MAIN: readonly MoverName[] = ['floor', 'direct', ...LIBVIRTS, 'stream'];

/** All of them, in the order in which they are run: those on one link together. */
export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'idle',
    title: 'idle guest',
    link: GIGABIT,
    guest: IDLE,
    movers: [...MAIN, 'floor-tls', 'floor-unix', 'naive'],
    pairs: { rounds: 15, movers: ['floor-unix', 'direct', 'stream', 'libvirt'] },
  },
  {
    name: 'ram-50',
    title: 'RAM dirtied at 50 MB/s',
    link: GIGABIT,
    guest: { ...SMALL, ram: { mib: 48, mibPerS: 48 } },
    movers: [...MAIN, 'naive'],
  },
  {
    name: 'ram-200',
    title: 'RAM dirtied at 200 MB/s',
    link: GIGABIT,
    guest: { ...SMALL, ram: { mib: 20, mibPerS: 191 } },
    movers: MAIN,
  },
  {
    name: 'disk-writes',
    title: 'disk written without a pause',
    link: GIGABIT,
    guest: BUSY_DISK,
    movers: [...MAIN, 'naive'],
    baselineMs: 1500,
  },
  {
    name: 'disk-writes-gentle',
    title: 'disk written without a pause, gentle',
    link: GIGABIT,
    guest: BUSY_DISK,
    movers: ['direct'],
    gentle: true,
    baselineMs: 1500,
  },
  {
    name: 'sparse',
    title: 'sparse disk: 10 % data, 30 % written zeros',
    link: GIGABIT,
    guest: { ...IDLE, disks: [{ sizeMib: 1024, dataMib: 100, zeroMib: 307 }] },
    movers: MAIN,
    fresh: true,
  },
  {
    name: 'four-disks',
    title: 'four disks',
    link: GIGABIT,
    guest: {
      ...IDLE,
      disks: [64, 48, 32, 16].map((dataMib) => ({ sizeMib: 128, dataMib, zeroMib: 0 })),
    },
    movers: MAIN,
  },
  ...[1, 2, 4, 8].map(
    (guests): Scenario => ({
      name: `together-${guests}`,
      title: guests === 1 ? 'one small guest' : `${guests} small guests at once`,
      link: GIGABIT,
      guest: { ...TINY, disks: [{ sizeMib: 128, dataMib: 48, zeroMib: 0 }], beatMs: 10 },
      movers: ['direct', 'libvirt', 'stream'],
      guests,
      rounds: 3,
    }),
  ),
  ...(['row', 'together'] as const).map(
    (order): Scenario => ({
      name: `twenty-${order}`,
      title: `20 small guests, ${order === 'row' ? 'one after another' : 'together'}`,
      link: GIGABIT,
      guest: TINY,
      movers: order === 'row' ? ['direct'] : ['direct', 'libvirt'],
      guests: 20,
      order,
      rounds: 1,
    }),
  ),
  {
    name: 'thin',
    title: 'thin disk of 200 GiB with 2 GiB in it',
    link: GIGABIT,
    guest: { ...IDLE, disks: [{ sizeMib: 200 * 1024, dataMib: 2048, zeroMib: 0 }] },
    // Not libvirt: its target takes all 200 GiB of storage (measured: no space left on device).
    movers: ['floor', 'direct', 'stream'],
    rounds: 1,
  },
  { name: 'slow', title: 'link of 200 Mb/s', link: SLOW, guest: TINY, movers: MAIN },
  {
    name: 'far',
    title: 'link with 10 ms of delay',
    link: FAR,
    guest: IDLE,
    movers: [...MAIN, 'floor-tls'],
  },
];

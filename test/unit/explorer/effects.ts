import type { Written } from '../../../src/migration/handover.js';
import type {
  DestinationState,
  Effect,
  HandoverRecord,
  SourceState,
} from '../../../src/migration/handover-types.js';
import { isTaken, isUndecided } from '../../../src/migration/handover-types.js';
import { gateIsOpen } from './gate.js';
import { plainBit } from './messages.js';
import {
  type Move,
  type Rules,
  type Scene,
  sceneOf,
  tellDestination,
  withCopy,
  withDestination,
  withLeg,
  withSource,
} from './moves.js';
import type { Leg, Qemu, World } from './world.js';

/*
 * What carries the reducer's effects out: one at a time, so that everything else can happen in
 * between.
 */

type Write = Extract<Effect, { type: 'write' }>;

/** Records that are appended without waiting for the storage, by the flaw that does so. */
const UNSYNCED: Readonly<Record<string, HandoverRecord>> = {
  'committed-is-not-synced': 'COMMITTED',
  'owned-is-not-synced': 'OWNED',
  'reclaimed-is-not-synced': 'RECLAIMED',
  'done-is-not-synced': 'DONE',
};

/** Does the first thing that the source's half has to do. */
export function doForSource(scene: Scene): Move {
  const { world, index, leg, from, fromIndex } = scene;
  const [effect, ...todo] = leg.source.todo as [Effect, ...Effect[]];
  const rest = withSource(world, index, { todo });
  const does = (next: World, more: Partial<Move> = {}): Move => ({
    label: `source does ${effect.type}`,
    next,
    kind: 'step',
    ...more,
  });
  switch (effect.type) {
    case 'write':
      if (leg.source.broken) return unwritten(world, index, 'source', effect, {});
      return does(withSource(rest, index, written(leg.source, effect, scene)), {
        label: `source writes ${effect.record}`,
        source: `write ${effect.record}`,
        ...rescueTooLate(scene),
      });
    case 'run-here':
      return does(resumeSource(rest, scene));
    case 'retire':
      return does(withCopy(rest, fromIndex, { qemu: 'gone' }), ownerless(scene));
    case 'stand-down':
      return does(withCopy(rest, fromIndex, { qemu: ended(from.qemu) }));
    default:
      return does(rest);
  }
}

/** Does the first thing that the destination's half has to do; more than one thing can come of it. */
export function doForDestination(scene: Scene): Move[] {
  const { world, index, leg, to, toIndex } = scene;
  const [effect, ...todo] = leg.destination.todo as [Effect, ...Effect[]];
  const rest = withDestination(world, index, { todo });
  const does = (next: World, more: Partial<Move> = {}): Move[] => [
    { label: `destination does ${effect.type}`, next, kind: 'step', ...more },
  ];
  switch (effect.type) {
    case 'write': {
      if (leg.destination.broken) return [unwritten(world, index, 'destination', effect, {})];
      const next = withDestination(rest, index, written(leg.destination, effect, scene));
      const writes = does(next, {
        label: `destination writes ${effect.record}`,
        destination: `write ${effect.record}`,
      });
      return effect.record === 'OWNED' ? [...writes, ...neverRan(next, scene)] : writes;
    }
    case 'refuse':
      return does(refused(rest, scene));
    case 'run-here':
      return does(resumeDestination(rest, scene));
    case 'discard':
      return does(discarded(rest, scene));
    case 'stand-down':
      return does(withCopy(rest, toIndex, { qemu: ended(to.qemu), server: false, twin: false }));
    default:
      return does(rest);
  }
}

function written(
  half: { readonly durable: Written | undefined },
  { record, rank }: Write,
  { rules: { flaws } }: Scene,
): { journal?: Written; durable?: Written | undefined; before?: undefined } {
  const journal: Written = { record, rank };
  if (flaws.has('committed-is-kept-in-memory') && record === 'COMMITTED')
    return { before: undefined };
  const unsynced = [...flaws].some((flaw) => UNSYNCED[flaw] === record);
  return { journal, durable: unsynced ? half.durable : journal, before: undefined };
}

/**
 * A write fails: what was decided has not happened in this life, and nothing that stands behind it
 * may. `kept`: it is in the file all the same.
 */
export function unwritten(
  world: World,
  index: number,
  side: 'source' | 'destination',
  { record, rank }: Write,
  { kept = false, broken = false }: { readonly kept?: boolean; readonly broken?: boolean },
): Move {
  const { source, destination } = world.legs[index] as Leg;
  const file = { record, rank };
  const journals = kept ? { journal: file, durable: file } : {};
  const failed = { ...journals, todo: [], before: undefined };
  const label = `${side} cannot write ${record}${kept ? ', it seems' : ''}`;
  const seen = `unwritten ${record}`;
  if (side === 'source') {
    const next = withSource(world, index, {
      ...failed,
      state: source.before,
      broken: source.broken || broken,
      doubt: source.doubt || record === 'COMMITTED',
    });
    return { label, next, kind: 'step', source: seen };
  }
  const next = withDestination(world, index, {
    ...failed,
    state: destination.before,
    broken: destination.broken || broken,
    doubt: destination.doubt || record === 'OWNED' || record === 'RUNNING',
  });
  return { label, next, kind: 'step', destination: seen };
}

/** The same for a write that the end of its process cut short: it is in the file all the same. */
export function cutShort(half: { readonly todo: readonly Effect[] }): Written | undefined {
  const [effect] = half.todo;
  return effect?.type === 'write' ? { record: effect.record, rank: effect.rank } : undefined;
}

function refused(world: World, { index, leg, sourceHost }: Scene): World {
  if (!world.link || sourceHost.power !== 'up') return world;
  return withSource(world, index, { inbox: leg.source.inbox | plainBit('refused') });
}

function ended(qemu: Qemu): Qemu {
  return qemu === 'none' ? 'none' : 'gone';
}

/** Lets the guest run on the source, if it may: `migrate_cancel`, or `cont`, whatever it takes. */
export function resumeSource(world: World, scene: Scene): World {
  const { rules, index, from, to, fromIndex, toIndex, leg } = scene;
  if (!gateIsOpen(world, rules, fromIndex)) return world;
  if (from.qemu === 'none' || from.qemu === 'gone') return world;
  let after = withCopy(world, fromIndex, { qemu: 'running' });
  if (to.qemu === 'waiting' && from.qemu !== 'running') {
    after = withCopy(after, toIndex, { qemu: 'failed' });
  }
  if (from.qemu !== 'running') after = unsettle(after, index, rules);
  // Whoever gives up ends its mirrors.
  return leg.source.state?.record === 'ABORTED' ? endMirror(after, index) : after;
}

/** The guest runs again: what had settled before says nothing about what it writes from now on. */
export function unsettle(world: World, index: number, rules: Rules): World {
  const { mirror } = world.legs[index] as Leg;
  if (mirror !== 'settled' || rules.flaws.has('settled-is-remembered')) return world;
  return withLeg(world, index, { mirror: 'void' });
}

function resumeDestination(world: World, { rules, to, toIndex }: Scene): World {
  if (to.qemu !== 'loaded' || !gateIsOpen(world, rules, toIndex)) return world;
  return withCopy(world, toIndex, { qemu: 'running' });
}

// In the life that has taken the commit, and in no other, it is known whether the guest has run: its
// QEMU has died before it was told to, or it refuses and is killed.
function neverRan(world: World, { rules, index, leg, to, toIndex }: Scene): Move[] {
  const fresh = leg.destination.journal?.record === 'LOADED';
  const dead = to.qemu === 'gone' && world.ran < toIndex;
  const refuses = to.qemu === 'loaded' && world.faults < rules.faults;
  if (!fresh || !(dead || refuses)) return [];
  const faults = dead ? world.faults : world.faults + 1;
  const killed = withCopy({ ...world, faults }, toIndex, { qemu: 'gone' });
  const scene = sceneOf(killed, rules, index);
  const what = 'its QEMU has never run the guest, and is dead';
  const move = tellDestination(scene, { type: 'never-ran' }, 'never-ran', what);
  if (!move) return [];
  const destination = `write OWNED|${move.destination}`;
  return [{ ...move, destination, kind: dead ? 'step' : 'fault' }];
}

function discarded(world: World, { index, to, toIndex }: Scene): World {
  const none = { qemu: ended(to.qemu), server: false, twin: false, images: 'none' } as const;
  return endMirror(withCopy(world, toIndex, none), index);
}

/** A mirror that has not settled is of no use any more. */
export function endMirror(world: World, index: number): World {
  const { mirror } = world.legs[index] as Leg;
  return mirror === 'active' ? withLeg(world, index, { mirror: 'void' }) : world;
}

function ownerless({ world, toIndex, leg: { destination } }: Scene): Partial<Move> {
  const record = destination.durable?.record;
  const owned = isTaken((record ?? 'NONE') as DestinationState['record']) || world.ran >= toIndex;
  return owned || world.resolves > 0 ? {} : { breaks: 'I5' };
}

function rescueTooLate({ sourceHost, leg: { source } }: Scene): Partial<Move> {
  const record = (source.journal?.record ?? 'NONE') as SourceState['record'];
  return sourceHost.power === 'rescue' && !isUndecided(record) ? { breaks: 'I9' } : {};
}

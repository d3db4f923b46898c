import type { Written } from '../../../src/migration/handover.js';
import type {
  DestinationState,
  HandoverRecord,
  SourceState,
} from '../../../src/migration/handover-types.js';
import { isTaken, isUndecided } from '../../../src/migration/handover-types.js';
import { cutShort, endMirror, unwritten } from './effects.js';
import { plainBit } from './messages.js';
import {
  type Move,
  type Rules,
  sceneOf,
  withCopy,
  withDestination,
  withHost,
  withSource,
} from './moves.js';
import type { Copy, Half, Leg, World } from './world.js';

/** Everything that can go wrong next. */
export function faultMoves(world: World, rules: Rules): Move[] {
  const moves: Move[] = [];
  const fault = (label: string, next: World, seen: Partial<Move> = {}) =>
    moves.push({
      label: `FAULT ${label}`,
      next: { ...next, faults: world.faults + 1 },
      kind: 'fault',
      ...seen,
    });
  if (world.link) fault('the link is cut', endMirrors({ ...world, link: false }));
  world.legs.forEach(({ mirror }, index) => {
    if (mirror === 'active') fault('a mirror fails', endMirror(world, index));
  });
  world.copies.forEach((copy, index) => {
    if (copy.qemu !== 'none' && copy.qemu !== 'gone') {
      fault(`QEMU of copy ${index} dies`, killed(world, rules, index));
    }
    if (copy.twin) {
      const without = withCopy(world, index, { server: false, twin: false });
      fault(`the disk server of copy ${index} dies`, endMirrors(without));
    }
  });
  if (rules.mishaps.has('broken-journal')) {
    moves.push(...journalFaults(world, rules));
  }
  for (let host = 0; host < world.hosts.length; host++) hostFaults(world, rules, host, fault);
  return moves;
}

// The storage of a journal fails, for once or for ever, and takes the record or does not.
function* journalFaults(world: World, rules: Rules): Generator<Move> {
  for (let index = 0; index < world.legs.length; index++) {
    const { leg, sourceHost, destinationHost } = sceneOf(world, rules, index);
    for (const side of ['source', 'destination'] as const) {
      const [effect] = leg[side].todo;
      const { power } = side === 'source' ? sourceHost : destinationHost;
      if (effect?.type !== 'write' || power !== 'up' || leg[side].broken) continue;
      for (const [kept, broken] of FAILURES) {
        const move = unwritten(world, index, side, effect, { kept, broken });
        const next = { ...carriedOn(move.next, rules, index, side), faults: world.faults + 1 };
        yield { ...move, label: `FAULT ${move.label}`, next, kind: 'fault' };
      }
    }
  }
}

const FAILURES = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
] as const;

// What must not be done when a decision could not be written.
function carriedOn(world: World, { flaws }: Rules, index: number, side: string): World {
  if (side === 'source' || !flaws.has('goes-on-unwritten')) return world;
  const { source, destination } = world.legs[index] as Leg;
  if (!destination.doubt) return world;
  return withSource(world, index, { inbox: source.inbox | plainBit('refused') });
}

type Fault = (label: string, next: World, seen?: Partial<Move>) => void;

function hostFaults(world: World, rules: Rules, host: number, fault: Fault): void {
  const { power, quarantined } = world.hosts[host] as World['hosts'][number];
  const { mishaps } = rules;
  if (power === 'lost') return;
  const seen = (label: string): Partial<Move> =>
    rules.layout.hostOf[0] === host ? { source: label } : { destination: label };
  if (power === 'up' || power === 'rescue') {
    const ends = seen(power === 'rescue' ? 'rescue-end' : 'crash');
    for (const kept of ways(world, rules, host)) {
      const next = withHost(ended(world, rules, host, kept), host, { power: 'down' });
      fault(`host ${host}: its agent dies${kept ? ' in a write' : ''}`, next, ends);
    }
  }
  if (mishaps.has('power') && power !== 'off') {
    for (const kept of ways(world, rules, host)) {
      const next = unpowered(world, rules, host, kept);
      fault(`host ${host}: loses power${kept ? ' in a write' : ''}`, next, seen('power-loss'));
    }
  }
  if (mishaps.has('lying-disk') && power !== 'off') {
    for (const earlier of forgotten(world, rules, host)) {
      fault(
        `host ${host}: loses power and the last record`,
        unpowered(earlier, rules, host, false),
      );
    }
  }
  if (mishaps.has('lost-host')) {
    const next = withHost(unpowered(world, rules, host, false), host, { power: 'lost' });
    fault(`host ${host}: is lost for ever`, next);
  }
  if (mishaps.has('restored') && (power === 'down' || power === 'off') && !quarantined) {
    if (rules.flaws.has('restored-is-not-noticed')) {
      for (const earlier of restored(world, rules, host)) {
        fault(`host ${host}: has an older state directory`, earlier);
      }
    } else {
      fault(
        `host ${host}: has an older state directory`,
        withHost(world, host, { quarantined: true }),
      );
    }
  }
}

// Whether a write that is under way turns out to have reached the journal.
function ways(world: World, rules: Rules, host: number): boolean[] {
  const writes = rules.layout.legs.some(({ from, to }, index) => {
    const { source, destination } = world.legs[index] as Leg;
    const { hostOf } = rules.layout;
    return (
      (hostOf[from] === host && cutShort(source)) || (hostOf[to] === host && cutShort(destination))
    );
  });
  return writes ? [false, true] : [false];
}

/** The agent's life on a host is over. */
export function ended(world: World, rules: Rules, host: number, kept: boolean): World {
  let next = world;
  rules.layout.legs.forEach(({ from, to }, index) => {
    const { source, destination } = world.legs[index] as Leg;
    if (rules.layout.hostOf[from] === host && source.journal) {
      next = withSource(next, index, { ...over(source, kept, rules), state: undefined });
    }
    if (rules.layout.hostOf[to] === host) {
      next = withDestination(next, index, {
        ...over(destination, kept, rules),
        state: undefined,
      });
    }
  });
  // What was heard and not acted upon has to be heard again.
  const forgets = world.lie === 'spoken' && isStandingDown(world) && !isStandingDown(next);
  return forgets ? { ...next, lie: 'told' } : next;
}

/** True where a guest is about to be stopped, because the other side counts. */
export function isStandingDown({ legs }: World): boolean {
  return legs.some(({ source, destination }) =>
    [...source.todo, ...destination.todo].some(({ type }) => type === 'stand-down'),
  );
}

function over(
  half: Half<SourceState> | Half<DestinationState>,
  kept: boolean,
  { flaws }: Rules,
): Partial<Half<never>> {
  const record = kept ? cutShort(half) : undefined;
  const journals = record ? { journal: record, durable: record } : {};
  const inbox = flaws.has('messages-outlive-the-receiver') ? half.inbox : 0;
  return { todo: [], inbox, before: undefined, broken: false, doubt: false, ...journals };
}

function unpowered(world: World, rules: Rules, host: number, kept: boolean): World {
  let next = ended(world, rules, host, kept);
  next = withHost(next, host, { power: 'off' });
  rules.layout.hostOf.forEach((where, copy) => {
    if (where === host) next = killed(next, rules, copy);
  });
  rules.layout.legs.forEach(({ from, to }, index) => {
    const { source, destination } = next.legs[index] as Leg;
    if (rules.layout.hostOf[from] === host && source.journal) {
      next = withSource(next, index, { journal: source.durable, newBoot: true });
    }
    if (rules.layout.hostOf[to] === host && destination.journal) {
      next = withDestination(next, index, { journal: destination.durable });
    }
  });
  return next;
}

function killed(world: World, rules: Rules, index: number): World {
  const copy = world.copies[index] as Copy;
  if (copy.qemu === 'none') return world;
  const dead = withCopy(world, index, {
    qemu: 'gone',
    server: copy.twin && copy.server,
    twin: false,
  });
  let next = dead;
  rules.layout.legs.forEach(({ from, to }, leg) => {
    if (from === index || (to === index && !copy.twin)) next = endMirror(next, leg);
  });
  return next;
}

function endMirrors(world: World): World {
  return world.legs.reduce((next, _, index) => endMirror(next, index), world);
}

const BEFORE: Readonly<Partial<Record<HandoverRecord, readonly HandoverRecord[]>>> = {
  COMMITTED: ['SWITCHING'],
  DONE: ['COMMITTED'],
  RECLAIMED: ['COMMITTED'],
  ABORTED: ['DST_PREPARED', 'SWITCHING'],
};

// A disk that lied about a flush: the last record is gone, and nobody can tell from the file.
function* forgotten(world: World, rules: Rules, host: number): Generator<World> {
  for (let index = 0; index < world.legs.length; index++) {
    const { source, destination } = world.legs[index] as Leg;
    const { from } = rules.layout.legs[index] as { from: number };
    const prepared = destination.journal !== undefined;
    if (rules.layout.hostOf[from] !== host || !source.journal || !prepared) continue;
    for (const record of BEFORE[source.journal.record] ?? []) {
      const earlier = { ...source.journal, record } as Written;
      yield withSource(world, index, { journal: earlier, durable: earlier });
    }
  }
}

// What an older copy of a state directory may say; only where nobody notices that it is one.
function* restored(world: World, rules: Rules, host: number): Generator<World> {
  const { layout, flaws } = rules;
  for (let index = 0; index < world.legs.length; index++) {
    const { source, destination, rank } = world.legs[index] as Leg;
    const { from, to } = layout.legs[index] as { from: number; to: number };
    const record = source.journal?.record as SourceState['record'] | undefined;
    const decided = record !== undefined && !isUndecided(record);
    if (layout.hostOf[from] === host && decided && !flaws.has('unknown-is-refused')) {
      const journal: Written = { record: 'DST_PREPARED', rank };
      yield withSource(world, index, { journal, durable: journal });
    }
    const taken = destination.journal as Written<DestinationState['record']> | undefined;
    if (layout.hostOf[to] === host && taken && isTaken(taken.record)) {
      yield withDestination(world, index, { journal: undefined, durable: undefined });
    }
  }
}

import { destinationStateOf, type Written } from '../../../src/migration/handover.js';
import type { DestinationQemu, DestinationState } from '../../../src/migration/handover-types.js';
import { isComing } from '../../../src/migration/handover-types.js';
import { doForDestination, endMirror } from './effects.js';
import { gateIsOpen } from './gate.js';
import { DESTINATION_ARRIVALS, plainBit } from './messages.js';
import {
  type Move,
  type Scene,
  sceneOf,
  tellDestination,
  withCopy,
  withDestination,
  withHost,
  withSource,
} from './moves.js';
import type { Copy, Leg, Qemu, World } from './world.js';

/** What the destination's agent may do next. */
export function destinationMoves(scene: Scene): Move[] {
  const { leg, destinationHost } = scene;
  const { destination } = leg;
  if (destinationHost.power !== 'up') return [];
  if (!destination.journal) return preparation(scene);
  if (!destination.state) return [];
  if (destination.todo.length > 0) return doForDestination(scene);
  return [...arrivals(scene), ...ownMoves(scene)];
}

/**
 * The life of an agent begins: the journal is folded. An incoming QEMU whose stream broke may look
 * like one that waits.
 */
export function destinationLife(
  scene: Scene,
  world: World,
  failedIs: 'gone' | 'waiting',
): Move | undefined {
  const { index, leg, to } = scene;
  const { journal } = leg.destination;
  if (!journal) return undefined;
  const state = destinationStateOf(leg.rank, [journal as Written<DestinationState['record']>]);
  const qemu = observed(to.qemu, failedIs);
  const after = { ...scene, world: withDestination(world, index, { state, todo: [] }) };
  const told = tellDestination(
    { ...after, leg: { ...leg, destination: { ...leg.destination, state } } },
    { type: 'restarted', qemu },
    `restarted ${qemu}`,
    `restarts with ${journal.record} and QEMU ${qemu}`,
  );
  const label = `destination: restarts with ${journal.record}`;
  const seen = `event restarted ${qemu}`;
  return told ?? { label, next: after.world, kind: 'step', destination: seen };
}

function observed(qemu: Qemu, failedIs: 'gone' | 'waiting'): DestinationQemu {
  if (qemu === 'failed') return failedIs;
  if (qemu === 'waiting' || qemu === 'loaded') return qemu;
  const over = qemu === 'none' || qemu === 'gone';
  // As the source of the next migration it has been running since.
  return over ? 'gone' : 'running';
}

// The journal comes before QEMU, which may die at once: that is a fault of its own.
function preparation(scene: Scene): Move[] {
  const { world, rules, index, leg, toIndex, destinationHost } = scene;
  const { inbox } = leg.destination;
  if (destinationHost.quarantined || !isFree(scene)) return [];
  const moves: Move[] = [];
  if (inbox & plainBit('commit') && rules.flaws.has('unknown-is-refused')) {
    const next = withSource(world, index, { inbox: leg.source.inbox | plainBit('refused') });
    moves.push({ label: 'destination: refuses what it does not know', next, kind: 'step' });
  }
  if (!(inbox & plainBit('prepare'))) return moves;
  const rank = { ...leg.rank, generation: leg.rank.generation + 1 };
  const journal = { record: 'PREPARED', rank } as const;
  const state = { ...journal, confirmed: false };
  const made = withDestination(endMirror(world, index), index, {
    journal,
    durable: journal,
    state,
  });
  const next = withCopy(made, toIndex, { qemu: 'waiting', server: true, images: 'behind' });
  const label = 'destination: prepares';
  moves.push({ label, next, kind: 'step', destination: 'write PREPARED' });
  if (rules.idle) {
    // Its journal is there, but it has come no further, and a trace shows nothing of it.
    const ended = withDestination(next, index, { state: undefined });
    const unmade = withCopy(ended, toIndex, { qemu: 'gone', server: false });
    const down = withHost(unmade, scene.destinationHostIndex, { power: 'down' });
    moves.push({ label: `${label}, and dies in it`, next: down, kind: 'fault' });
  }
  return moves;
}

// A host that has not retired its own copy of the domain takes no other, nor two at a time.
function isFree({ world, rules, destinationHostIndex, index }: Scene): boolean {
  return rules.layout.legs.every(({ from, to }, other) => {
    const { source, destination } = world.legs[other] as Leg;
    if (other === index || !source.journal) return true;
    const { hostOf } = rules.layout;
    if (hostOf[from] === destinationHostIndex) {
      const { qemu } = world.copies[from] as Copy;
      return source.state?.record === 'DONE' && qemu === 'gone';
    }
    if (hostOf[to] !== destinationHostIndex || !destination.journal) return true;
    return destination.state?.record === 'ABORTED' && destination.todo.length === 0;
  });
}

function arrivals(scene: Scene): Move[] {
  const { inbox } = scene.leg.destination;
  const moves: Move[] = [];
  for (const { bit, label, event } of DESTINATION_ARRIVALS) {
    if (!(inbox & bit)) continue;
    const move = tellDestination(scene, event(scene.leg.rank), label, `hears ${label}`);
    if (move) moves.push(move);
  }
  return moves;
}

function ownMoves(scene: Scene): Move[] {
  const { world, rules, leg, to, toIndex, index } = scene;
  const state = leg.destination.state as DestinationState;
  const moves: (Move | undefined)[] = [];
  const does = (label: string, next: World) =>
    moves.push({ label: `destination: ${label}`, next, kind: 'step' });
  if (state.record === 'PREPARED' && to.qemu === 'loaded') {
    // Its exports are closed first.
    const closed = withCopy(world, toIndex, { server: false, twin: false });
    const alone = rules.flaws.has('exports-stay-open') ? world : endMirror(closed, index);
    const now = sceneOf(alone, rules, index);
    moves.push(tellDestination(now, { type: 'loaded' }, 'loaded', 'is loaded'));
  }
  if (state.record === 'PREPARED' && to.qemu === 'failed' && to.server && mayRetry(scene)) {
    does('takes the RAM again', withCopy(world, toIndex, { qemu: 'waiting', twin: true }));
  }
  if (rules.flaws.has('tombstone-expires-early') && state.record === 'RUNNING') {
    const nothing = { journal: undefined, durable: undefined, state: undefined };
    does('forgets the migration', withDestination(world, index, nothing));
  }
  if (leg.destination.doubt && to.qemu === 'loaded' && isComing(state.record)) {
    does('ends its QEMU', withCopy(world, toIndex, { qemu: 'gone' }));
  }
  if (isComing(state.record)) {
    moves.push(tellDestination(scene, { type: 'abort' }, 'abort', 'has waited for too long'));
  }
  if (state.record === 'OWNED' && to.qemu === 'running') {
    moves.push(tellDestination(scene, { type: 'resumed' }, 'resumed', 'sees it run'));
  }
  if (state.record === 'OWNED' && to.qemu === 'gone') {
    const event = rules.flaws.has('lost-is-refused') ? 'never-ran' : 'lost';
    moves.push(tellDestination(scene, { type: event }, event, 'sees QEMU gone'));
  }
  if (to.qemu === 'gone' && to.images !== 'none' && gateIsOpen(world, rules, toIndex)) {
    does('starts the domain', withCopy(world, toIndex, { qemu: 'running' }));
  }
  return moves.filter((move) => move !== undefined);
}

// Only the source knows whether its mirrors are still good, and asks for it.
function mayRetry({ world, rules, leg, sourceHost }: Scene): boolean {
  if (!world.link || sourceHost.power !== 'up' || !leg.source.state) return false;
  const { record } = leg.source.state;
  if (rules.flaws.has('retries-after-settling') && record === 'SWITCHING') return true;
  return record === 'DST_PREPARED' && leg.mirror === 'active';
}

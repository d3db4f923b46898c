import type { DestinationState } from '../../../src/migration/handover-types.js';
import { destinationLife, destinationMoves } from './destination-moves.js';
import { unsettle } from './effects.js';
import { ended, faultMoves } from './faults.js';
import { gateIsOpen } from './gate.js';
import {
  type Move,
  posted,
  type Rules,
  type Scene,
  sceneOf,
  withCopy,
  withHost,
  withLeg,
} from './moves.js';
import { personMoves } from './person-moves.js';
import { sourceLife, sourceMoves } from './source-moves.js';
import { type Copy, type Leg, startedHalf, type World } from './world.js';

/** Everything that can happen next. */
export function movesOf(world: World, rules: Rules): Move[] {
  const moves: Move[] = [];
  for (let index = 0; index < world.legs.length; index++) {
    const scene = sceneOf(world, rules, index);
    if (!scene.leg.source.journal) {
      moves.push(...beginnings(scene));
      continue;
    }
    moves.push(...sourceMoves(scene), ...destinationMoves(scene), ...qemuMoves(scene));
    if (world.resolves < rules.resolves) moves.push(...personMoves(scene));
  }
  moves.push(...guestMoves(world), ...repairs(world, rules));
  if (world.faults < rules.faults) moves.push(...faultMoves(world, rules));
  return moves.map((move) => finished(world, rules, move));
}

// What is true after every move, whoever made it.
function finished(before: World, rules: Rules, move: Move): Move {
  // Where nobody has come to know anything, nobody has anything new to say.
  const { legs, hosts, link } = move.next;
  const known = legs === before.legs && hosts === before.hosts && link === before.link;
  const silent = known && !rules.mishaps.has('broken-journal');
  let next = silent ? move.next : posted(move.next, rules);
  let breaks = move.breaks;
  for (let copy = next.ran + 1; copy < next.copies.length; copy++) {
    if ((next.copies[copy] as Copy).qemu === 'running') next = { ...next, ran: copy };
  }
  for (let copy = 0; copy < next.copies.length; copy++) {
    const { qemu, images } = next.copies[copy] as Copy;
    const was = before.copies[copy] as Copy;
    if (qemu !== 'running' || was.qemu === 'running') continue;
    const host = next.hosts[rules.layout.hostOf[copy] as number];
    if (host?.quarantined && !move.label.startsWith('QEMU')) breaks ??= 'I7';
    const stale = images === 'behind' || copy < next.ran;
    if (was.qemu === 'gone' && stale && next.lie === 'none') breaks ??= 'I4';
  }
  if (breaks !== undefined) return { ...move, next, breaks };
  return next === move.next ? move : { ...move, next };
}

/** What both QEMUs do by themselves. */
function qemuMoves(scene: Scene): Move[] {
  const { world, rules, index, leg, from, to, fromIndex, toIndex } = scene;
  const moves: Move[] = [];
  const does = (label: string, next: World) =>
    moves.push({ label: `QEMU: ${label}`, next, kind: 'step' });
  const flaw = (name: string) => rules.flaws.has(name);
  const record = leg.source.journal?.record;
  if (from.qemu === 'running' && to.qemu === 'waiting' && world.link) {
    const again = flaw('retries-after-settling') && leg.mirror === 'settled';
    const begun = leg.mirror === 'active' || leg.mirror === 'void';
    if ((record === 'DST_PREPARED' && begun) || again) {
      does('the source stops before the switchover', stopped(scene));
    }
  }
  if (from.qemu === 'device') {
    const resumed = unsettle(withCopy(world, fromIndex, { qemu: 'running' }), index, rules);
    const broken = to.qemu === 'waiting' ? withCopy(resumed, toIndex, { qemu: 'failed' }) : resumed;
    does('the source fails and resumes the guest', broken);
    if (to.qemu === 'waiting' && world.link) {
      const runs = flaw('starts-without-S') || flaw('cont-before-loaded');
      does(
        'the destination has loaded',
        withCopy(world, toIndex, { qemu: runs ? 'running' : 'loaded', server: to.server && !runs }),
      );
    }
    if ((to.qemu === 'loaded' || to.qemu === 'running') && world.link) {
      does('the source has completed', withCopy(world, fromIndex, { qemu: 'completed' }));
    }
  }
  const streaming = from.qemu === 'pre-switchover' || from.qemu === 'device';
  if (to.qemu === 'waiting' && streaming && !world.link) {
    does('the stream to the destination breaks', withCopy(world, toIndex, { qemu: 'failed' }));
  }
  if (flaw('cont-before-owned') && to.qemu === 'loaded') {
    const { state, todo } = leg.destination;
    if (state?.record === 'OWNED' && todo[0]?.type === 'write') {
      does(
        'the destination runs before OWNED is written',
        withCopy(world, toIndex, { qemu: 'running' }),
      );
    }
  }
  return moves;
}

function stopped({ world, fromIndex }: Scene): World {
  return withCopy(world, fromIndex, { qemu: 'pre-switchover' });
}

// A write that is acknowledged to the guest is in the images of the copy that runs, and in those
// that its mirror keeps up.
function guestMoves(world: World): Move[] {
  const moves: Move[] = [];
  world.copies.forEach(({ qemu }, writer) => {
    if (qemu !== 'running') return;
    const mirrored = world.legs.findIndex(({ mirror }) => mirror === 'active');
    let next = world;
    world.copies.forEach(({ images }, copy) => {
      const kept = copy === writer || (mirrored >= 0 && copy > writer && mirrored === copy - 1);
      if (!kept && images === 'whole') next = withCopy(next, copy, { images: 'behind' });
    });
    if (next !== world)
      moves.push({ label: `guest: writes on copy ${writer}`, next, kind: 'step' });
  });
  return moves;
}

/** The next migration of a domain that has come to stay, or that was given back. */
function beginnings({
  world,
  rules,
  index,
  fromIndex,
  from,
  sourceHost,
  sourceHostIndex,
}: Scene): Move[] {
  const { hostOf, legs } = rules.layout;
  if (from.qemu !== 'running' || sourceHost.power !== 'up') return [];
  if (!gateIsOpen(world, rules, fromIndex)) return [];
  let rank = (world.legs[index] as Leg).rank;
  for (let other = 0; other < index; other++) {
    const { source, destination, rank: base } = world.legs[other] as Leg;
    const layout = legs[other] as { from: number; to: number };
    if (hostOf[layout.from] === sourceHostIndex && source.todo.length > 0) return [];
    if (layout.from === fromIndex) {
      if (source.state?.record !== 'ABORTED' && source.state?.record !== 'RECLAIMED') return [];
      rank = source.state.rank;
    }
    if (layout.to === fromIndex) {
      const state = destination.state as DestinationState;
      const settled = state.record === 'SOURCE_GONE' || state.rank.epoch > base.epoch;
      const early = rules.flaws.has('onward-before-source-gone') && state.record === 'RUNNING';
      if (destination.todo.length > 0 || !(settled || early)) return [];
      rank = state.rank;
    }
  }
  const next = withLeg(world, index, { rank, source: startedHalf(rank) });
  return [{ label: `source: begins migration ${index + 1}`, next, kind: 'step' }];
}

/** What mends itself: agents restart, power and link come back. */
function repairs(world: World, rules: Rules): Move[] {
  const moves: Move[] = [];
  if (!world.link)
    moves.push({ label: 'link: heals', next: { ...world, link: true }, kind: 'step' });
  world.hosts.forEach(({ power }, host) => {
    if (power === 'up' && hasBroken(world, rules, host)) moves.push(ending(world, rules, host));
    if (power !== 'down' && power !== 'off') return;
    moves.push(restart(world, rules, host, 'gone'));
    if (world.copies.some(({ qemu }) => qemu === 'failed')) {
      moves.push(restart(world, rules, host, 'waiting'));
    }
  });
  return moves;
}

function hasBroken({ legs }: World, { layout }: Rules, host: number): boolean {
  return layout.legs.some(({ from, to }, index) => {
    const { source, destination } = legs[index] as Leg;
    const { hostOf } = layout;
    return (hostOf[from] === host && source.broken) || (hostOf[to] === host && destination.broken);
  });
}

// Somebody makes room, or mends the storage, and restarts the agent.
function ending(world: World, rules: Rules, host: number): Move {
  const next = withHost(ended(world, rules, host, false), host, { power: 'down' });
  const seen = rules.layout.hostOf[0] === host ? { source: 'crash' } : { destination: 'crash' };
  return { label: `host ${host}: its agent is restarted`, next, kind: 'step', ...seen };
}

function restart(world: World, rules: Rules, host: number, failedIs: 'gone' | 'waiting'): Move {
  let next = withHost(world, host, { power: 'up' });
  let move: Move = { label: `host ${host}: its agent starts`, next, kind: 'step' };
  const { quarantined } = next.hosts[host] as World['hosts'][number];
  if (quarantined && !rules.flaws.has('quarantine-is-ignored')) return move;
  for (let index = 0; index < world.legs.length; index++) {
    const scene = sceneOf(next, rules, index);
    const { sourceHostIndex, destinationHostIndex, leg } = scene;
    const mirrored = leg.mirror === 'active';
    const life = [
      sourceHostIndex === host ? sourceLife(scene, next, mirrored) : undefined,
      destinationHostIndex === host ? destinationLife(scene, next, failedIs) : undefined,
    ].find((one) => one !== undefined);
    if (!life) continue;
    move = life;
    next = life.next;
  }
  return { ...move, next };
}

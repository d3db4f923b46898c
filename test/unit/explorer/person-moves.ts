import type { SourceState } from '../../../src/migration/handover-types.js';
import { doForDestination, doForSource } from './effects.js';
import { type Move, type Scene, sceneOf, tellDestination, tellSource, withCopy } from './moves.js';
import type { Copy, Host, World } from './world.js';

/*
 * ResolveMigration: a person says who has the guest, and that the other host is fenced. From then on
 * the copy that was chosen counts, and what the other one has acknowledged is given up.
 */

/** What a person may decide now, on either side. */
export function personMoves(scene: Scene): Move[] {
  const { leg, sourceHost, destinationHost, toIndex, fromIndex } = scene;
  const { source, destination } = leg;
  const moves: Move[] = [];
  const speaks = (host: Host) => host.power === 'up' && !host.quarantined;
  const add = (move: Move | undefined, isTrue: boolean, chosen: number, moved = false) => {
    if (!move || (!isTrue && !scene.rules.lies)) return;
    if (!changes(scene.world, move.next)) return;
    const next = chosenBy(untilWritten(move.next, scene), chosen, isTrue, moved);
    moves.push({
      ...move,
      label: `${move.label}${isTrue ? '' : ' (not true)'}`,
      next,
      kind: 'person',
    });
  };
  if (speaks(sourceHost) && source.state && source.todo.length === 0 && !source.broken) {
    const resolved = (by: 'reclaim' | 'relinquish') =>
      tellSource(scene, { type: 'resolved', by }, `resolved ${by}`, `a person says ${by}`);
    const record = destination.durable?.record;
    const runs = record === 'RUNNING' || record === 'SOURCE_GONE' || scene.to.qemu === 'running';
    add(resolved('reclaim'), isFenced(destinationHost, scene.to), fromIndex);
    add(resolved('relinquish'), runs, toIndex, true);
  }
  if (
    speaks(destinationHost) &&
    destination.state &&
    destination.todo.length === 0 &&
    !destination.broken
  ) {
    const resolved = (by: 'reclaim' | 'relinquish') =>
      tellDestination(scene, { type: 'resolved', by }, `resolved ${by}`, `a person says ${by}`);
    const record = source.durable?.record as SourceState['record'];
    // Nobody is asked to say it twice.
    if (!destination.state.confirmed) {
      add(resolved('reclaim'), isFenced(sourceHost, scene.from), toIndex);
    }
    add(resolved('relinquish'), record === 'RECLAIMED', fromIndex);
  }
  return moves;
}

// It has happened when it is written; what a person says of the other host is true until then.
function untilWritten(world: World, { rules, index }: Scene): World {
  let next = world;
  for (;;) {
    const scene = sceneOf(next, rules, index);
    const { source, destination } = scene.leg;
    const half = source.todo.length > 0 ? source : destination;
    if (!half.todo.some(({ type }) => type === 'write')) return next;
    const [move] = half === source ? [doForSource(scene)] : doForDestination(scene);
    next = (move as Move).next;
  }
}

// Without power, or under quarantine with nothing that could run by itself.
function isFenced({ power, quarantined }: Host, { qemu }: Copy): boolean {
  if (power === 'off' || power === 'lost') return true;
  const still = qemu === 'none' || qemu === 'gone' || qemu === 'completed' || qemu === 'loaded';
  return quarantined && still;
}

function changes(before: World, after: World): boolean {
  return before.legs.some((leg, index) => leg.key !== after.legs[index]?.key);
}

// What the chosen copy misses is given up. Where it misses nothing, nothing is.
function chosenBy(world: World, chosen: number, isTrue: boolean, moved: boolean): World {
  let next = world;
  // It has gone on to another host since.
  if (world.ran > chosen && moved) return { ...next, chosen, resolves: world.resolves + 1 };
  const loses = world.copies[chosen]?.images === 'behind';
  world.copies.forEach(({ images }, copy) => {
    if (images === 'none' || !loses) return;
    next = withCopy(next, copy, { images: copy === chosen ? 'whole' : 'behind' });
  });
  const { lie, resolves } = world;
  const torn = lie === 'none' && world.chosen !== undefined && world.chosen !== chosen;
  return {
    ...next,
    chosen,
    resolves: resolves + 1,
    ran: Math.min(world.ran, chosen),
    lie: isTrue ? (torn ? 'torn' : lie) : 'told',
  };
}

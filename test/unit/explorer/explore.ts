import type { DestinationState, SourceState } from '../../../src/migration/handover-types.js';
import { isComing, isUndecided } from '../../../src/migration/handover-types.js';
import { isStandingDown } from './faults.js';
import { INVARIANTS, type InvariantName } from './invariants.js';
import { type Move, posted, type Rules, sceneOf } from './moves.js';
import { Relevance } from './relevance.js';
import { type Copy, firstWorld, keyOf, type World } from './world.js';
import { movesOf } from './world-moves.js';

/** What an exploration found: nothing, or the shortest way to something that must never be. */
export interface Exploration {
  readonly states: number;
  readonly seconds: number;
  /** Every record that was written. */
  readonly records: ReadonlySet<string>;
  readonly invariant?: InvariantName;
  readonly trace?: readonly string[];
}

/**
 * Walks through every world that can be reached, first those without faults, then those with one,
 * and so on, until something is wrong.
 */
export function explore(given: Rules): Exploration {
  const began = performance.now();
  const rules = { ...given, relevant: new Relevance(given) };
  const first = beginning(rules);
  // Only until it has been looked at; after that it is a number.
  const worlds: (World | undefined)[] = [first];
  const resolved: boolean[] = [];
  const known = new Map<string, number>([[keyOf(first), 0]]);
  const parents: number[] = [-1];
  const labels: string[] = [''];
  // Edges without faults, as pairs, to find out from where there is a way out.
  const edges: number[] = [];
  const found = (at: number, invariant: InvariantName, last?: string): Exploration => {
    const trace = last === undefined ? [] : [last];
    for (let n = at; n > 0; n = parents[n] as number) trace.push(labels[n] as string);
    return {
      states: worlds.length,
      seconds: secondsSince(began),
      records: recordsIn(labels),
      invariant,
      trace: trace.reverse(),
    };
  };
  const indexOf = (world: World, parent: number, label: string): number => {
    const key = keyOf(world);
    const index = known.get(key);
    if (index !== undefined) return index;
    known.set(key, worlds.length);
    worlds.push(world);
    parents.push(parent);
    labels.push(label);
    return worlds.length - 1;
  };
  for (let round = 0, at = 0; round <= rules.faults; round++) {
    // Faults are kept for the next round, so that every world is reached with as few as possible.
    const faults = new Map<string, { readonly from: number; readonly move: Move }>();
    for (; at < worlds.length; at++) {
      const world = worlds[at] as World;
      worlds[at] = undefined;
      resolved.push(isResolved(world, rules));
      const broken = brokenBy(world);
      if (broken) return found(at, broken);
      for (const move of movesOf(world, rules)) {
        if (move.breaks) return found(at, move.breaks, move.label);
        if (move.kind === 'fault') {
          const key = keyOf(move.next);
          if (!known.has(key) && !faults.has(key)) faults.set(key, { from: at, move });
        } else {
          const to = indexOf(move.next, at, move.label);
          if (isWayOut(move, world)) edges.push(at, to);
        }
      }
    }
    for (const { from, move } of faults.values()) indexOf(move.next, from, move.label);
  }
  const stuck = firstStuck(resolved, edges);
  if (stuck !== undefined) return found(stuck, 'I6');
  return { states: worlds.length, seconds: secondsSince(began), records: recordsIn(labels) };
}

/** What came of it in words: one line, and the way to the violation if there is one. */
export function describeExploration(name: string, found: Exploration): string {
  const { states, seconds, invariant, trace = [] } = found;
  const result = invariant ? `${invariant} ${INVARIANTS[invariant]}` : 'all invariants hold';
  return [`${name}: ${states} states, ${seconds.toFixed(1)} s, ${result}`, ...trace].join('\n  ');
}

function beginning(rules: Rules): World {
  let world = posted(firstWorld(rules.layout), rules);
  for (const label of rules.after) {
    const move = movesOf(world, rules).find((one) => one.label === label);
    if (!move) throw new Error(`Nothing is called "${label}" here.`);
    world = move.next;
  }
  return world;
}

function recordsIn(labels: readonly string[]): ReadonlySet<string> {
  return new Set(labels.flatMap((label) => / writes ([A-Z_]+)/.exec(label)?.[1] ?? []));
}

// A person is asked only where a host does not come back.
function isWayOut(move: Move, { hosts }: World): boolean {
  return (
    move.kind === 'step' || hosts.some(({ power, quarantined }) => power === 'lost' || quarantined)
  );
}

function brokenBy(world: World): InvariantName | undefined {
  const running = world.copies.filter(({ qemu }) => qemu === 'running').length;
  // Whom a person has deceived is excused until the two sides have spoken.
  const deceived = world.lie === 'told' || (world.lie === 'spoken' && isStandingDown(world));
  if (running > 1 && !deceived) return 'I1';
  for (let index = 0; index < world.copies.length; index++) {
    const { qemu, images, server } = world.copies[index] as Copy;
    if (qemu !== 'running') continue;
    if (server) return 'I8';
    if (world.lie !== 'none') continue;
    if (index < world.ran) return 'I2';
    if (images === 'behind') return 'I3';
  }
  return undefined;
}

function firstStuck(resolved: readonly boolean[], edges: readonly number[]): number | undefined {
  const size = resolved.length;
  // Edges by where they lead, as a compressed list.
  const starts = new Uint32Array(size + 1);
  for (let edge = 1; edge < edges.length; edge += 2) starts[(edges[edge] as number) + 1]! += 1;
  for (let n = 0; n < size; n++) starts[n + 1]! += starts[n] as number;
  const fill = starts.slice();
  const origins = new Uint32Array(edges.length / 2);
  for (let edge = 0; edge < edges.length; edge += 2) {
    origins[fill[edges[edge + 1] as number]!++] = edges[edge] as number;
  }
  const out = new Uint8Array(size);
  const queue: number[] = [];
  for (let n = 0; n < size; n++) {
    if (!resolved[n]) continue;
    out[n] = 1;
    queue.push(n);
  }
  for (let at = queue.pop(); at !== undefined; at = queue.pop()) {
    for (let n = starts[at] as number; n < (starts[at + 1] as number); n++) {
      const origin = origins[n] as number;
      if (out[origin]) continue;
      out[origin] = 1;
      queue.push(origin);
    }
  }
  const stuck = out.indexOf(0);
  return stuck < 0 ? undefined : stuck;
}

/** True where every migration is over, and the guest runs, or may be started, in one place. */
export function isResolved(world: World, rules: Rules): boolean {
  return world.legs.every(({ source }, index) => !source.journal || isOver(world, rules, index));
}

function isOver(world: World, rules: Rules, index: number): boolean {
  const { leg, from, to, sourceHost, destinationHost } = sceneOf(world, rules, index);
  const { source, destination } = leg;
  if (source.todo.length > 0 || destination.todo.length > 0) return false;
  const lives = (host: typeof sourceHost) => host.power === 'up' && !host.quarantined;
  const given =
    source.state && !isUndecided(source.state.record) && source.state.record !== 'COMMITTED';
  const sourceIs = given ? (source.state as SourceState).record : 'open';
  const destinationIs = destination.state?.record ?? (destination.journal ? 'open' : 'ABORTED');
  const destinationEnded = destinationIs === 'ABORTED' || destinationIs === 'SUPERSEDED';
  const destinationHas =
    destination.state?.confirmed && !isComing(destinationIs as DestinationState['record']);
  const back = (sourceIs === 'ABORTED' || sourceIs === 'RECLAIMED') && !source.state?.held;
  const idle = (copy: Copy) => copy.qemu === 'none' || copy.qemu === 'gone';
  const served = (copy: Copy) => copy.qemu === 'running' || copy.qemu === 'gone';
  if (!lives(sourceHost) && !lives(destinationHost))
    return unreachable(sourceHost) && unreachable(destinationHost);
  if (unreachable(destinationHost))
    return lives(sourceHost) && (back ? served(from) : idle(from) && given === true);
  if (unreachable(sourceHost)) {
    return (
      lives(destinationHost) &&
      (destinationEnded ? idle(to) : destinationHas === true && served(to))
    );
  }
  if (!lives(sourceHost) || !lives(destinationHost)) return false;
  if (back) return served(from) && idle(to) && destinationEnded;
  if (sourceIs === 'DONE' || sourceIs === 'SUPERSEDED') {
    // By a word that was not true: the images are there still, and it takes a person to say so.
    const deceived = world.lie === 'told' || world.lie === 'spoken';
    if (deceived && destinationEnded) return idle(from) && idle(to);
    // A copy that has gone on to another host is not needed here any more.
    const onward = world.ran > rules.layout.legs[index]!.to;
    return idle(from) && destinationHas === true && (served(to) || onward);
  }
  return false;
}

function unreachable({ power, quarantined }: World['hosts'][number]): boolean {
  return power === 'lost' || quarantined;
}

function secondsSince(began: number): number {
  return (performance.now() - began) / 1000;
}

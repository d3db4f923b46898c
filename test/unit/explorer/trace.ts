import { stepDestination, stepSource } from '../../../src/migration/handover.js';
import type {
  DestinationEvent,
  DestinationState,
  SourceEvent,
  SourceState,
} from '../../../src/migration/handover-types.js';
import { isTaken } from '../../../src/migration/handover-types.js';
import { isIdle, posted, type Rules } from './moves.js';
import { SCENARIOS } from './scenarios.js';
import { type Copy, firstWorld, keyOf, type Leg, type World } from './world.js';
import { movesOf } from './world-moves.js';

/*
 * Whether what both sides of a real migration have seen is something that the model can do too. One
 * list of labels a side, in that side's own order over all lives of its agent; the two are never
 * compared by clock.
 *
 * These have to be there, because the model does not do them unseen:
 *   event <type> [detail]   right before the reducer takes an event, even if that changes nothing;
 *                           the detail is a peer's record, what QEMU does after a restart, or what a
 *                           person has decided
 *   write <RECORD>          after a record has been made durable; STARTED and PREPARED come first
 *   unwritten <RECORD>      after an append has failed
 *   crash, power-loss       the end of a life, of the agent alone or of its host
 *   rescue, rescue-end      the life of the rescue process
 * These are checked where they are there:
 *   send Commit|Abort|Query|SourceGone, answer RUNNING|REFUSED|OWNED_LOST
 *   qemu <what it does>     its own word; true if it has been so since the side's last label
 * A trace may end anywhere.
 */

/** True, or how far the best explanation comes and which label of which side it cannot explain. */
export type TraceVerdict =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly side: 'source' | 'destination';
      readonly position: number;
      readonly label: string;
    };

/** How many pairs of a world and two positions are looked at before it is given up. */
const NODES = 400_000;

interface Node {
  readonly world: World;
  readonly source: number;
  readonly destination: number;
  /** What each QEMU has done since its side's last label. */
  readonly sourceDid: ReadonlySet<string>;
  readonly destinationDid: ReadonlySet<string>;
}

/**
 * Looks for a path of the model whose two projections are these lists.
 *
 * @throws Error where neither a path nor its absence is found within bounds
 */
export function isPath(source: readonly string[], destination: readonly string[]): TraceVerdict {
  const rules: Rules = {
    ...SCENARIOS['one migration'],
    faults: Number.POSITIVE_INFINITY,
    resolves: 7,
    lies: true,
    idle: true,
    mishaps: new Set(['power', 'broken-journal']),
  };
  const first: Node = {
    world: posted(firstWorld(rules.layout), rules),
    source: source[0] === 'write STARTED' ? 1 : 0,
    destination: 0,
    sourceDid: new Set(['running']),
    destinationDid: new Set(['none']),
  };
  const known = new Set<string>([nameOf(first)]);
  // By how many faults it took, so that what is likely is tried first.
  const stacks: Node[][] = [[first]];
  let furthest = first;
  for (let level = 0; level < stacks.length; ) {
    const node = stacks[level]?.pop();
    if (node === undefined) {
      level += 1;
      continue;
    }
    if (node.source + node.destination > furthest.source + furthest.destination) furthest = node;
    if (node.source === source.length && node.destination === destination.length) {
      return { ok: true };
    }
    if (known.size > NODES)
      throw new Error(`No verdict; ${describe(furthest, source, destination)}`);
    for (const next of successors(node, rules, source, destination)) {
      const name = nameOf(next);
      if (known.has(name)) continue;
      known.add(name);
      const { faults } = next.world;
      while (stacks.length <= faults) stacks.push([]);
      stacks[faults]?.push(next);
    }
  }
  const side = furthest.source < source.length ? 'source' : 'destination';
  const position = furthest[side];
  const label = (side === 'source' ? source : destination)[position] ?? '';
  return { ok: false, side, position, label };
}

function describe(node: Node, source: readonly string[], destination: readonly string[]): string {
  const { source: s, destination: d } = node;
  return `explained ${s}/${source.length} (next ${source[s]}) and ${d}/${destination.length} (next ${destination[d]})`;
}

function* successors(
  node: Node,
  rules: Rules,
  source: readonly string[],
  destination: readonly string[],
): Generator<Node> {
  const atSource = source[node.source];
  const atDestination = destination[node.destination];
  const seen: Node[] = [];
  for (const move of movesOf(node.world, rules)) {
    if (move.label.startsWith('guest')) continue;
    const bySource = matched(move.source, source, node.source);
    const byDestination = matched(move.destination, destination, node.destination);
    if (bySource === undefined || byDestination === undefined) continue;
    const next = afterLabels(node, move.next, bySource, byDestination);
    if (bySource + byDestination > 0) seen.push(next);
    else yield next;
  }
  // What explains a label comes last, and so is tried first.
  if (atSource !== undefined && holdsAtSource(node, atSource)) {
    seen.push(afterLabels(node, node.world, 1, 0));
  }
  if (atDestination !== undefined && holdsAtDestination(node, atDestination)) {
    seen.push(afterLabels(node, node.world, 0, 1));
  }
  yield* seen;
}

/** How many labels a move explains; undefined where it says something else than the trace. */
function matched(seen: string | undefined, trace: readonly string[], at: number) {
  if (seen === undefined) return 0;
  const labels = seen.split('|');
  return labels.every((label, n) => trace[at + n] === label) ? labels.length : undefined;
}

function afterLabels(node: Node, world: World, bySource: number, byDestination: number): Node {
  return {
    world,
    source: node.source + bySource,
    destination: node.destination + byDestination,
    sourceDid: did(node.sourceDid, world, 0, bySource > 0),
    destinationDid: did(node.destinationDid, world, 1, byDestination > 0),
  };
}

function did(before: ReadonlySet<string>, world: World, copy: number, afresh: boolean) {
  const { qemu } = world.copies[copy] as Copy;
  if (!afresh && before.has(qemu)) return before;
  return new Set(afresh ? [qemu] : [...before, qemu]);
}

function nameOf({ world, source, destination, sourceDid, destinationDid }: Node): string {
  const dids = [sourceDid, destinationDid].map((set) => [...set].sort().join());
  return `${source} ${destination} ${dids.join(' ')} ${keyOf(world)}`;
}

/** Events that say nothing of the peer: where they change nothing they may come at any time. */
const ALWAYS: readonly string[] = [
  ...['prepared', 'switching', 'failed', 'loaded', 'resumed', 'never-ran', 'lost', 'abort'],
];

function holdsAtSource({ world, sourceDid }: Node, label: string): boolean {
  const [kind, what = ''] = label.split(' ');
  const { state, journal, todo } = (world.legs[0] as Leg).source;
  const record = state?.record;
  if (kind === 'qemu') return sourceDid.has(what);
  if (kind === 'event' && state && todo.length === 0 && ALWAYS.includes(what)) {
    const guard = { fenced: true, settled: true, voted: true };
    const event = what === 'loaded' ? { type: what, guard } : { type: what };
    return isIdle(state, stepSource(state as SourceState, event as SourceEvent));
  }
  if (kind !== 'send' || !journal || !state) return false;
  if (what === 'Commit') return record === 'COMMITTED';
  if (what === 'Abort') return record !== 'COMMITTED' && record !== 'DONE';
  return what === 'SourceGone' ? record === 'DONE' : what === 'Query';
}

function holdsAtDestination({ world, destinationDid }: Node, label: string): boolean {
  const [kind, what = ''] = label.split(' ');
  const { state, todo } = (world.legs[0] as Leg).destination;
  if (kind === 'qemu') return destinationDid.has(what === 'gone' ? 'gone' : what);
  if (!state) return false;
  if (kind === 'event' && todo.length === 0 && ALWAYS.includes(what)) {
    const event = { type: what } as DestinationEvent;
    return isIdle(state, stepDestination(state as DestinationState, event));
  }
  if (kind === 'send') return what === 'Query';
  if (kind !== 'answer') return false;
  return (what === 'REFUSED') !== isTaken(state.record);
}

import type {
  DestinationEvent,
  DestinationState,
  Effect,
  Rank,
  SourceEvent,
  SourceState,
  Step,
} from '../../../src/migration/handover-types.js';
import { isTaken, outranks } from '../../../src/migration/handover-types.js';
import type { InvariantName } from './invariants.js';
import { destinationRecordBit, plainBit, sourceRecordBit } from './messages.js';
import {
  type Copy,
  copyWith,
  type Half,
  type Host,
  halfWith,
  hostWith,
  type Layout,
  type Leg,
  legWith,
  type World,
} from './world.js';

/** What a scenario may make go wrong, besides processes that die and links that are cut. */
export type Mishap = 'power' | 'lying-disk' | 'restored' | 'lost-host' | 'broken-journal';

/** What can be left out of an inbox, because it does nothing any more. */
export interface Relevant {
  ofSource(state: SourceState, rank: Rank): number;
  ofDestination(state: DestinationState, rank: Rank): number;
}

/** What explores: the real reducer, in a world whose size the scenario limits. */
export interface Rules {
  readonly layout: Layout;
  readonly faults: number;
  readonly resolves: number;
  readonly mishaps: ReadonlySet<Mishap>;
  /** Whether fences that a person speaks of may not be true. */
  readonly lies: boolean;
  /** What is done wrongly around the reducer, by name; empty for the real thing. */
  readonly flaws: ReadonlySet<string>;
  /** Whether moves that change nothing are wanted too, because a trace may show them. */
  readonly idle: boolean;
  /** Moves, by their labels, that have been made before the exploration begins. */
  readonly after: readonly string[];
  readonly relevant?: Relevant;
  stepSource(state: SourceState, event: SourceEvent): Step<SourceState>;
  stepDestination(state: DestinationState, event: DestinationEvent): Step<DestinationState>;
}

/** One thing that can happen. */
export interface Move {
  readonly label: string;
  readonly next: World;
  readonly kind: 'step' | 'fault' | 'person';
  /** What a trace of that side shows of it. */
  readonly source?: string;
  readonly destination?: string;
  /** The invariant that the move breaks, whatever world it leads to. */
  readonly breaks?: InvariantName;
}

const CALLS: ReadonlySet<Effect['type']> = new Set([
  ...(['send-commit', 'send-abort', 'ask-peer', 'go-on'] as const),
]);

export function withHost(world: World, index: number, patch: Partial<Host>): World {
  const host = world.hosts[index] as Host;
  return { ...world, hosts: world.hosts.with(index, hostWith({ ...host, ...patch })) };
}

export function withCopy(world: World, index: number, patch: Partial<Copy>): World {
  const copy = world.copies[index] as Copy;
  return { ...world, copies: world.copies.with(index, copyWith({ ...copy, ...patch })) };
}

export function withLeg(world: World, index: number, patch: Partial<Leg>): World {
  const leg = world.legs[index] as Leg;
  return { ...world, legs: world.legs.with(index, legWith({ ...leg, ...patch })) };
}

export function withSource(world: World, leg: number, patch: Partial<Half<SourceState>>): World {
  const { source } = world.legs[leg] as Leg;
  return withLeg(world, leg, { source: halfWith<SourceState>({ ...source, ...patch }) });
}

export function withDestination(
  world: World,
  leg: number,
  patch: Partial<Half<DestinationState>>,
): World {
  const { destination } = world.legs[leg] as Leg;
  const half = halfWith<DestinationState>({ ...destination, ...patch });
  return withLeg(world, leg, { destination: half });
}

/** A leg with everything around it, to read from. */
export interface Scene {
  readonly world: World;
  readonly rules: Rules;
  readonly index: number;
  readonly leg: Leg;
  readonly from: Copy;
  readonly to: Copy;
  readonly fromIndex: number;
  readonly toIndex: number;
  readonly sourceHost: Host;
  readonly destinationHost: Host;
  readonly sourceHostIndex: number;
  readonly destinationHostIndex: number;
}

export function sceneOf(world: World, rules: Rules, index: number): Scene {
  const { from, to } = rules.layout.legs[index] as { from: number; to: number };
  const sourceHostIndex = rules.layout.hostOf[from] as number;
  const destinationHostIndex = rules.layout.hostOf[to] as number;
  return {
    world,
    rules,
    index,
    leg: world.legs[index] as Leg,
    from: world.copies[from] as Copy,
    to: world.copies[to] as Copy,
    fromIndex: from,
    toIndex: to,
    sourceHost: world.hosts[sourceHostIndex] as Host,
    destinationHost: world.hosts[destinationHostIndex] as Host,
    sourceHostIndex,
    destinationHostIndex,
  };
}

/**
 * Puts everything into the inboxes that a living agent keeps sending: what its journal says, which
 * the other asks for, and the calls that it repeats until they are answered. Whether a call that is
 * not repeated was sent at all makes no difference, because any message may be lost.
 */
export function posted(world: World, rules: Rules): World {
  let after = world;
  for (let index = 0; index < world.legs.length; index++) {
    const { leg, to, sourceHost, destinationHost } = sceneOf(world, rules, index);
    const { source, destination, rank } = leg;
    if (!source.journal) continue;
    const linked = world.link && canSpeak(sourceHost) && canSpeak(destinationHost);
    let forDestination = destination.inbox;
    if (linked) forDestination |= fromSource(leg);
    let forSource = source.inbox;
    if (linked) forSource |= fromDestination(leg, to.qemu === 'running');
    if (rules.relevant && destination.state) {
      forDestination &= rules.relevant.ofDestination(destination.state, rank);
    }
    if (rules.relevant && source.state) forSource &= rules.relevant.ofSource(source.state, rank);
    if (forDestination !== destination.inbox) {
      after = withDestination(after, index, { inbox: forDestination });
    }
    if (forSource !== source.inbox) after = withSource(after, index, { inbox: forSource });
  }
  return after;
}

function canSpeak(host: Host): boolean {
  return host.power === 'up' && !host.quarantined;
}

// What an agent says is what it believes: the state before a write that is still under way.
function fromSource({ source, rank, destination }: Leg): number {
  const { state, todo, doubt } = source;
  const said = source.before ?? state;
  if (!state || !said) return 0;
  let bits = sourceRecordBit(said.record, said.rank.epoch - rank.epoch);
  if (todo.length > 0) return bits;
  if (state.record === 'STARTED' && !destination.journal) bits |= plainBit('prepare');
  if (state.record === 'COMMITTED') bits |= plainBit('commit');
  if (state.record === 'ABORTED' || state.held || doubt) bits |= plainBit('abort');
  if (state.record === 'DONE') bits |= plainBit('source-gone');
  return bits;
}

function fromDestination({ destination, rank }: Leg, runs: boolean): number {
  const { journal, state, before, doubt } = destination;
  if (!journal) return destinationRecordBit('NONE', 0);
  const said = before ?? state;
  if (!said) return 0;
  const bits = destinationRecordBit(said.record, said.rank.epoch - rank.epoch);
  // Its guest runs, which is as good as RUNNING where that cannot be written.
  return said.record === 'OWNED' && doubt && runs ? bits | plainBit('taken') : bits;
}

/** The source's half takes an event. */
export function tellSource(
  scene: Scene,
  event: SourceEvent,
  seen: string,
  label: string,
): Move | undefined {
  const { world, rules, index, leg } = scene;
  const state = leg.source.state as SourceState;
  const step = rules.stepSource(state, event);
  if (isIdle(state, step) && !rules.idle) return undefined;
  const told = withSource(world, index, taking(state, step));
  const next = spoken(told, event, state);
  return { label: `source: ${label}`, next, kind: 'step', source: `event ${seen}` };
}

/** The destination's half takes an event. */
export function tellDestination(
  scene: Scene,
  event: DestinationEvent,
  seen: string,
  label: string,
): Move | undefined {
  const { world, rules, index, leg } = scene;
  const state = leg.destination.state as DestinationState;
  const step = rules.stepDestination(state, event);
  if (isIdle(state, step) && !rules.idle) return undefined;
  const told = withDestination(world, index, taking(state, step));
  const next = spoken(told, event, state);
  return { label: `destination: ${label}`, next, kind: 'step', destination: `event ${seen}` };
}

function taking<State>(before: State, { state, effects }: Step<State>): Partial<Half<State>> {
  const todo = deeds(effects);
  const writes = todo.some(({ type }) => type === 'write');
  return { state, todo, before: writes ? before : undefined };
}

// A fence that was not true is found out when the loser hears of the winner.
function spoken(
  world: World,
  event: SourceEvent | DestinationEvent,
  { rank }: SourceState | DestinationState,
): World {
  if (world.lie !== 'told' || event.type !== 'peer') return world;
  const taken = isTaken(event.record as DestinationState['record']);
  const wins = (event.record === 'RECLAIMED' || taken) && outranks(event.rank, rank);
  return wins || event.record === 'SUPERSEDED' ? { ...world, lie: 'spoken' } : world;
}

/** Effects that are more than a call, which `posted` makes. */
function deeds(effects: readonly Effect[]): readonly Effect[] {
  return effects.filter(({ type }) => !CALLS.has(type));
}

/** True where an event changes nothing and asks for nothing but calls. */
export function isIdle(
  state: SourceState | DestinationState,
  { state: after, effects }: Step<unknown>,
): boolean {
  if (deeds(effects).length > 0) return false;
  const { record, rank, ...rest } = after as SourceState & DestinationState;
  const flag = rest.held ?? rest.confirmed;
  const was = 'held' in state ? state.held : state.confirmed;
  return record === state.record && rank.epoch === state.rank.epoch && flag === was;
}

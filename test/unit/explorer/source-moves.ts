import { sourceStateOf, type Written } from '../../../src/migration/handover.js';
import type { SourceQemu, SourceState } from '../../../src/migration/handover-types.js';
import { isUndecided } from '../../../src/migration/handover-types.js';
import { doForSource, resumeSource } from './effects.js';
import { gateIsOpen, heardNever } from './gate.js';
import { destinationRecordBit, SOURCE_ARRIVALS } from './messages.js';
import {
  type Move,
  type Scene,
  tellSource,
  withCopy,
  withHost,
  withLeg,
  withSource,
} from './moves.js';
import type { Leg, Qemu, World } from './world.js';

/** What the source's agent may do next, or the rescue process in its place. */
export function sourceMoves(scene: Scene): Move[] {
  const { leg, sourceHost } = scene;
  const { source } = leg;
  if (sourceHost.power === 'rescue') return rescueMoves(scene);
  if (sourceHost.power === 'down' && source.journal) return rescueStarts(scene);
  if (sourceHost.power !== 'up' || !source.state) return [];
  if (source.todo.length > 0) return [doForSource(scene), ...userMoves(scene)];
  return [...arrivals(scene), ...flowMoves(scene), ...userMoves(scene)];
}

/** The life of an agent, or of the rescue process, begins: the journal is folded. */
export function sourceLife(scene: Scene, world: World, mirrored: boolean): Move | undefined {
  const { rules, index, leg, from } = scene;
  const { journal, newBoot } = leg.source;
  if (!journal) return undefined;
  const state = sourceStateOf(leg.rank, [journal as Written<SourceState['record']>]);
  const qemu = observed(from.qemu);
  const sameBoot = !newBoot || rules.flaws.has('new-boot-is-not-noticed');
  const after = { ...scene, world: withSource(world, index, { state, todo: [] }) };
  const told = tellSource(
    { ...after, leg: { ...leg, source: { ...leg.source, state } } },
    { type: 'restarted', qemu, sameBoot, mirrored },
    `restarted ${qemu}`,
    `restarts with ${journal.record} and QEMU ${qemu}`,
  );
  const label = `source: restarts with ${journal.record}`;
  return told ?? { label, next: after.world, kind: 'step', source: `event restarted ${qemu}` };
}

function observed(qemu: Qemu): SourceQemu {
  if (qemu === 'running' || qemu === 'completed') return qemu;
  return qemu === 'none' || qemu === 'gone' ? 'gone' : 'switching';
}

function arrivals(scene: Scene): Move[] {
  const { inbox } = scene.leg.source;
  const moves: Move[] = [];
  for (const { bit, label, event } of SOURCE_ARRIVALS) {
    if (!(inbox & bit)) continue;
    const move = tellSource(scene, event(scene.leg.rank), label, `hears ${label}`);
    if (move) moves.push(move);
  }
  return moves;
}

// The flow as far as the agent drives it. It may be late with everything, and give up at any time.
function flowMoves(scene: Scene): Move[] {
  const { leg, from, to, rules, world, index, fromIndex, toIndex } = scene;
  const { state, inbox } = leg.source;
  const moves: (Move | undefined)[] = [];
  const flaw = (name: string) => rules.flaws.has(name);
  if (!state || state.held) return [];
  // What could not be written is taken back on the destination first.
  const waits = leg.source.doubt && !heardNever(leg.source) && !flaw('unwritten-is-undone');
  if (waits && isUndecided(state.record)) return [];
  // Whoever cancels does not know how far it is.
  moves.push(tellSource(scene, { type: 'failed' }, 'failed', 'gives up'));
  if (!isUndecided(state.record)) return moves.filter((move) => move !== undefined);
  const does = (label: string, next: World) =>
    moves.push({ label: `source: ${label}`, next, kind: 'step' });
  if (state.record === 'STARTED') {
    if (inbox & destinationRecordBit('PREPARED', 0)) {
      moves.push(tellSource(scene, { type: 'prepared' }, 'prepared', 'sees it prepared'));
    }
  }
  const linked = world.link;
  if (state.record === 'DST_PREPARED' && leg.mirror === 'none' && linked && to.server) {
    const copied = withCopy(world, toIndex, { images: from.images });
    if (from.qemu === 'running') does('mirrors', withLeg(copied, index, { mirror: 'active' }));
  }
  const stopped = from.qemu === 'pre-switchover';
  if (state.record === 'DST_PREPARED' && stopped) {
    moves.push(tellSource(scene, { type: 'switching' }, 'switching', 'begins to switch over'));
  }
  if (state.record === 'SWITCHING' && stopped) {
    const whole = leg.mirror === 'active' && linked && to.server;
    const settles = whole || (leg.mirror === 'void' && flaw('mirror-error-is-ignored'));
    if (settles) does('settles the mirrors', withLeg(world, index, { mirror: 'settled' }));
    if (leg.mirror === 'settled') does('continues', withCopy(world, fromIndex, { qemu: 'device' }));
  }
  if (inbox & destinationRecordBit('LOADED', 0)) {
    const fenced = from.qemu === 'completed' || flaw('fence-is-not-read');
    const guard = { fenced, settled: leg.mirror === 'settled', voted: true };
    moves.push(tellSource(scene, { type: 'loaded', guard }, 'loaded', 'has the vote'));
  }
  if (flaw('quits-on-completed') && from.qemu === 'completed') {
    moves.push({ ...quitting(scene), label: 'source: quits QEMU on completed' });
  }
  return moves.filter((move) => move !== undefined);
}

function quitting({ world, fromIndex }: Scene): Move {
  const next = withCopy(world, fromIndex, { qemu: 'gone' });
  return { label: '', next, kind: 'step', breaks: 'I5' };
}

// A user may resume the guest, or start the domain, through the agent; a flow that unwinds resumes
// the guest too, before the migration has been given up in writing.
function userMoves(scene: Scene): Move[] {
  const { world, rules, from, fromIndex, leg } = scene;
  const { qemu } = from;
  if (qemu === 'running' || qemu === 'none') return resumesOnSilence(scene);
  if (!gateIsOpen(world, rules, fromIndex)) return resumesOnSilence(scene);
  if (qemu !== 'gone') {
    const next = resumeSource(world, scene);
    return [{ label: 'source: resumes the guest', next, kind: 'step' }];
  }
  if (leg.source.todo.length > 0) return [];
  return [{ label: 'source: starts the domain', next: started(scene), kind: 'step' }];
}

function resumesOnSilence({ world, rules, from, fromIndex, leg, index }: Scene): Move[] {
  const { state, todo } = leg.source;
  if (!rules.flaws.has('no-answer-is-a-no') || from.qemu !== 'completed') return [];
  if (state?.record !== 'COMMITTED' || todo.length > 0) return [];
  const journal = { record: 'ABORTED', rank: state.rank } as const;
  const gaveUp = withSource(world, index, { state: { ...state, ...journal }, journal });
  const next = withCopy(gaveUp, fromIndex, { qemu: 'running' });
  return [{ label: 'source: takes silence for a no', next, kind: 'step' }];
}

/** A cold start: a new QEMU on the images that are there. */
export function started({ world, rules, index, fromIndex }: Scene): World {
  const { mirror } = world.legs[index] as Leg;
  const next = withCopy(world, fromIndex, { qemu: 'running' });
  if (mirror === 'none' || rules.flaws.has('settled-is-remembered')) return next;
  return withLeg(next, index, { mirror: 'void' });
}

// It finishes what the source may do alone: it gives up what is undecided, and carries out what has
// been decided and would let the guest run here.
function rescueStarts(scene: Scene): Move[] {
  const { world, rules, index, sourceHostIndex, leg } = scene;
  const record = leg.source.journal?.record as SourceState['record'];
  if (scene.sourceHost.quarantined) return [];
  const locked = withHost(world, sourceHostIndex, { power: 'rescue' });
  if (rules.flaws.has('rescue-acts-on-committed') && record === 'COMMITTED') {
    return [rescueRecklessly(scene, locked)];
  }
  if (!isUndecided(record) && record !== 'ABORTED' && record !== 'RECLAIMED') return [];
  const life = sourceLife({ ...scene, world: locked }, locked, false);
  if (!life) return [];
  const { source } = life.next.legs[index] as Leg;
  if (source.todo.length === 0 && !rules.idle) return [];
  return [{ ...life, label: `rescue: ${life.label}`, source: `rescue|${life.source}` }];
}

function rescueRecklessly({ index, leg }: Scene, locked: World): Move {
  const state = { record: 'SWITCHING', rank: leg.rank, held: false } as const;
  const todo = [
    { type: 'write', record: 'ABORTED', rank: leg.rank },
    { type: 'run-here' },
  ] as const;
  const next = withSource(locked, index, { state: { ...state, record: 'ABORTED' }, todo });
  return { label: 'rescue: gives up what was committed', next, kind: 'step' };
}

function rescueMoves(scene: Scene): Move[] {
  const { world, index, sourceHostIndex, leg } = scene;
  if (leg.source.todo.length > 0) return [doForSource(scene)];
  if (!leg.source.state) return [];
  const ended = withSource(world, index, { state: undefined, inbox: 0, doubt: false });
  const next = withHost(ended, sourceHostIndex, { power: 'down' });
  return [{ label: 'rescue: is done', next, kind: 'step', source: 'rescue-end' }];
}

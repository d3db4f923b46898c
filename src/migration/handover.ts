import {
  type CommitGuard,
  type DestinationEvent,
  type DestinationQemu,
  type DestinationRecord,
  type DestinationState,
  type Effect,
  type HandoverRecord,
  isComing,
  isTaken,
  isUndecided,
  type Rank,
  type SourceEvent,
  type SourceRecord,
  type SourceState,
  type Step,
} from './handover-types.js';

/*
 * Who may run the guest. One decider at a time: the source alone until it has written COMMITTED,
 * from then on the destination alone. Pure functions, so that every order of events, crashes and
 * lost messages can be explored; both agents and the rescue process obey them, and nothing else
 * decides. A state is what a journal says, plus what this life of the agent has learnt.
 */

type Event<Events extends { readonly type: string }, Type> = Extract<Events, { type: Type }>;

/** A journal's part of a decision. */
export interface Written<Record extends HandoverRecord = HandoverRecord> {
  readonly record: Record;
  readonly rank: Rank;
}

/** The source's half as its journal tells it. `rank` is that of the copy on the source. */
export function sourceStateOf(rank: Rank, written: readonly Written<SourceRecord>[]): SourceState {
  const last = written.at(-1) ?? { record: 'STARTED', rank };
  // What a person said of the other host was true then; another may have said the opposite since.
  const held = last.record === 'RECLAIMED' && last.rank.epoch > rank.epoch;
  return { record: last.record, rank: last.rank, held };
}

/** The destination's half as its journal tells it. `rank` is that of the copy on the source. */
export function destinationStateOf(
  rank: Rank,
  written: readonly Written<DestinationRecord>[],
): DestinationState {
  const here = { ...rank, generation: rank.generation + 1 };
  const last = written.at(-1) ?? { record: 'PREPARED', rank: here };
  return { record: last.record, rank: last.rank, confirmed: last.record === 'SOURCE_GONE' };
}

/** The source's half. Events that a state does not expect change nothing: calls may come twice. */
export function stepSource(state: SourceState, event: SourceEvent): Step<SourceState> {
  switch (event.type) {
    case 'restarted':
      return restartSource(state, event);
    case 'peer':
      return hearDestination(state, event);
    case 'resolved':
      return resolveSource(state, event.by);
    case 'prepared':
      return state.record === 'STARTED' ? write(state, 'DST_PREPARED') : stay(state);
    case 'switching':
      return decidesAlone(state) ? write(state, 'SWITCHING') : stay(state);
    case 'loaded':
      return decidesAlone(state) ? commit(state, event.guard) : stay(state);
    case 'failed':
      return decidesAlone(state) ? giveUp(state) : stay(state);
    case 'taken':
      return state.record === 'COMMITTED' ? write(state, 'DONE', RETIRE) : stay(state);
    case 'refused':
      return state.record === 'COMMITTED' ? write(state, 'RECLAIMED', RUN_HERE) : stay(state);
  }
}

/** The destination's half. */
export function stepDestination(
  state: DestinationState,
  event: DestinationEvent,
): Step<DestinationState> {
  const { record } = state;
  switch (event.type) {
    case 'restarted':
      return restartDestination(state, event.qemu);
    case 'peer':
      return hearSource(state, event);
    case 'resolved':
      return resolveDestination(state, event.by);
    case 'loaded':
      return record === 'PREPARED' ? write(state, 'LOADED') : stay(state);
    case 'abort':
      return isComing(record) ? write(state, 'ABORTED', DISCARD) : stay(state);
    case 'commit':
      return takeCommit(state);
    case 'resumed':
    case 'lost':
      return record === 'OWNED' ? write(state, 'RUNNING') : stay(state);
    case 'never-ran':
      return record === 'OWNED' ? write(state, 'ABORTED', DISCARD, REFUSE) : stay(state);
    case 'source-gone':
      return record === 'RUNNING' ? write(confirm(state), 'SOURCE_GONE') : stay(state);
  }
}

const RUN_HERE = { type: 'run-here' } as const;
const GO_ON = { type: 'go-on' } as const;
const RETIRE = { type: 'retire' } as const;
const DISCARD = { type: 'discard' } as const;
const REFUSE = { type: 'refuse' } as const;
const SEND_COMMIT = { type: 'send-commit' } as const;
const SEND_ABORT = { type: 'send-abort' } as const;
const ASK_PEER = { type: 'ask-peer' } as const;
const STAND_DOWN = { type: 'stand-down' } as const;

function commit(state: SourceState, guard: CommitGuard): Step<SourceState> {
  const safe = guard.fenced && guard.settled && guard.voted;
  return safe ? write(state, 'COMMITTED', SEND_COMMIT) : giveUp(state);
}

function giveUp(state: SourceState): Step<SourceState> {
  return write(state, 'ABORTED', RUN_HERE, SEND_ABORT);
}

function restartSource(
  state: SourceState,
  { qemu, sameBoot, mirrored }: Event<SourceEvent, 'restarted'>,
): Step<SourceState> {
  switch (state.record) {
    case 'STARTED':
    case 'DST_PREPARED':
    case 'SWITCHING': {
      // A disk that lied about a flush may have lost COMMITTED with the power. The destination is
      // told to give up, not only asked what it knows: a commit that is still under way to it must
      // find nothing to take.
      const doubtful = !sameBoot && state.record !== 'STARTED';
      if (doubtful) return { state: { ...state, held: true }, effects: [SEND_ABORT] };
      const intact = qemu === 'running' && mirrored && state.record !== 'SWITCHING';
      return intact ? { state, effects: [GO_ON] } : giveUp(state);
    }
    case 'COMMITTED':
      return { state, effects: [SEND_COMMIT] };
    case 'ABORTED':
      return { state, effects: [RUN_HERE, SEND_ABORT] };
    case 'RECLAIMED':
      return { state, effects: state.held ? [ASK_PEER] : [RUN_HERE] };
    case 'DONE':
      return { state, effects: [RETIRE] };
    case 'SUPERSEDED':
      return { state, effects: [STAND_DOWN] };
  }
}

function hearDestination(
  state: SourceState,
  { record, rank }: Event<SourceEvent, 'peer'>,
): Step<SourceState> {
  // OWNED is not enough: a destination whose QEMU refuses to run the guest still gives it back.
  const runs = record === 'RUNNING' || record === 'SOURCE_GONE';
  const never = record === 'ABORTED' || record === 'SUPERSEDED';
  if (state.record === 'COMMITTED') {
    if (runs) return write(state, 'DONE', RETIRE);
    return never ? write(state, 'RECLAIMED', RUN_HERE) : stay(state);
  }
  if (state.record === 'RECLAIMED') {
    // Each of two people has said that the other host is fenced, and one was wrong. After a
    // refusal, where no epoch was raised, a destination that has the guest is old news.
    if (isTaken(record) && rank.epoch > state.rank.epoch) return standDown(release(state));
    return state.held && never ? { state: release(state), effects: [RUN_HERE] } : stay(state);
  }
  if (!state.held) return stay(state);
  // Whoever has taken it was sent a commit: that is the record that the power loss took along.
  if (record === 'OWNED') return write(release(state), 'COMMITTED', SEND_COMMIT);
  if (runs) return write(release(state), 'DONE', RETIRE);
  return never ? write(release(state), 'ABORTED', RUN_HERE) : stay(state);
}

function resolveSource(state: SourceState, by: 'reclaim' | 'relinquish'): Step<SourceState> {
  if (state.record !== 'COMMITTED' && !state.held) return stay(state);
  const decided = release(state);
  if (by === 'relinquish') {
    // Whoever has run the guest here since gives it up by a person's word on the destination only.
    return state.record === 'RECLAIMED' ? stay(state) : write(decided, 'DONE', RETIRE);
  }
  // One above what there was, and again above what a person may have said on the destination.
  const rank = raised(state.rank, state.record === 'RECLAIMED' ? 2 : 1);
  return write({ ...decided, rank }, 'RECLAIMED', RUN_HERE);
}

function takeCommit(state: DestinationState): Step<DestinationState> {
  switch (state.record) {
    case 'PREPARED':
      // A commit without a vote cannot come from a sound source; refusing is always safe.
      return write(state, 'ABORTED', DISCARD, REFUSE);
    case 'LOADED':
      return write(confirm(state), 'OWNED', RUN_HERE);
    case 'OWNED':
      // The call may be an old one that was long under way: only a fresh answer confirms.
      return { state, effects: [state.confirmed ? RUN_HERE : ASK_PEER] };
    case 'ABORTED':
    case 'SUPERSEDED':
      return { state, effects: [REFUSE] };
    case 'RUNNING':
    case 'SOURCE_GONE':
      return stay(state);
  }
}

function restartDestination(
  state: DestinationState,
  qemu: DestinationQemu,
): Step<DestinationState> {
  switch (state.record) {
    case 'PREPARED':
      return qemu === 'waiting' ? { state, effects: [GO_ON] } : write(state, 'ABORTED', DISCARD);
    case 'LOADED':
      return qemu === 'loaded' ? { state, effects: [ASK_PEER] } : write(state, 'ABORTED', DISCARD);
    case 'OWNED':
      // A guest that runs was resumed by an earlier life, which knew that it might.
      if (qemu === 'running') return write(state, 'RUNNING', ASK_PEER);
      return { state, effects: [ASK_PEER] };
    case 'RUNNING':
      return { state, effects: [ASK_PEER] };
    case 'ABORTED':
      return { state, effects: [DISCARD] };
    case 'SUPERSEDED':
      return { state, effects: [STAND_DOWN] };
    case 'SOURCE_GONE':
      return stay(state);
  }
}

function hearSource(
  state: DestinationState,
  { record, rank }: Event<DestinationEvent, 'peer'>,
): Step<DestinationState> {
  if (isComing(state.record)) {
    // NONE: its journal is gone, and with it everybody who could commit.
    const over = record === 'ABORTED' || record === 'RECLAIMED' || record === 'NONE';
    return over ? write(state, 'ABORTED', DISCARD) : stay(state);
  }
  if (state.record !== 'OWNED' && state.record !== 'RUNNING') return stay(state);
  if (record === 'RECLAIMED' && rank.epoch >= state.rank.epoch) {
    // In the same epoch a source takes it back only from an earlier life that refused it and whose
    // record the disk has lost; in a higher one a person has said so.
    const refused = state.record === 'OWNED' && rank.epoch === state.rank.epoch;
    return refused ? write(state, 'ABORTED', DISCARD) : standDown(state);
  }
  if (record !== 'COMMITTED' && record !== 'DONE' && record !== 'SUPERSEDED') return stay(state);
  if (state.record === 'OWNED') return { state: confirm(state), effects: [RUN_HERE] };
  // DONE is durable over there: nobody but this host can run the guest any more.
  return record === 'DONE' ? write(confirm(state), 'SOURCE_GONE') : stay(confirm(state));
}

function resolveDestination(
  state: DestinationState,
  by: 'reclaim' | 'relinquish',
): Step<DestinationState> {
  if (state.record !== 'OWNED' && state.record !== 'RUNNING') return stay(state);
  if (by === 'relinquish') return standDown(state);
  // By two, so that the destination wins where a person has raised the source's epoch as well.
  return write({ ...confirm(state), rank: raised(state.rank, 2) }, state.record, RUN_HERE);
}

function decidesAlone({ record, held }: SourceState): boolean {
  return isUndecided(record) && !held;
}

function release(state: SourceState): SourceState {
  return { ...state, held: false };
}

function confirm(state: DestinationState): DestinationState {
  return { ...state, confirmed: true };
}

function raised(rank: Rank, by: number): Rank {
  return { ...rank, epoch: rank.epoch + by };
}

function stay<State>(state: State): Step<State> {
  return { state, effects: [] };
}

// A record is always written before anything that follows from it.
function write<State extends { readonly record: HandoverRecord; readonly rank: Rank }>(
  state: State,
  record: State['record'],
  ...effects: Effect[]
): Step<State> {
  const written = { type: 'write', record, rank: state.rank } as const;
  return { state: { ...state, record }, effects: [written, ...effects] };
}

// The exception: whoever reads SUPERSEDED may run the guest, so it stops here first.
function standDown<State extends { readonly record: HandoverRecord; readonly rank: Rank }>(
  state: State,
): Step<State> {
  const step = write(state, 'SUPERSEDED' as State['record']);
  return { ...step, effects: [STAND_DOWN, ...step.effects] };
}

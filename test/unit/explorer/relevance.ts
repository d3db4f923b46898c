import type {
  DestinationEvent,
  DestinationState,
  Rank,
  SourceEvent,
  SourceState,
  Step,
} from '../../../src/migration/handover-types.js';
import { NEVER } from './gate.js';
import {
  type Arrival,
  DESTINATION_ARRIVALS,
  destinationRecordBit,
  SOURCE_ARRIVALS,
} from './messages.js';
import { isIdle, type Rules } from './moves.js';
import { stateCode } from './world.js';

/*
 * Which messages can still matter to a side in this life: those that do something in a state that
 * it can come to. The others are dropped on arrival, so that worlds which differ only in them are
 * one. It is found out by asking the reducer that is explored.
 */

const SAFE = { fenced: true, settled: true, voted: true };
const SOURCE_EVENTS: readonly SourceEvent[] = [
  ...(['prepared', 'switching', 'failed', 'taken', 'refused'] as const).map((type) => ({ type })),
  { type: 'loaded', guard: SAFE },
  { type: 'loaded', guard: { ...SAFE, fenced: false } },
];
const DESTINATION_EVENTS: readonly DestinationEvent[] = (
  ['loaded', 'commit', 'resumed', 'never-ran', 'lost', 'abort', 'source-gone'] as const
).map((type) => ({ type }));
const RESOLVED = (['reclaim', 'relinquish'] as const).map(
  (by) => ({ type: 'resolved', by }) as const,
);

type AnyState = SourceState | DestinationState;

interface Lens<State extends AnyState, Event> {
  readonly arrivals: readonly Arrival<Event>[];
  readonly own: readonly Event[];
  /** Bits that the flow itself looks at in a state, besides what the reducer does with them. */
  looksAt(state: State): number;
  step(state: State, event: Event): Step<State>;
}

/** Answers which bits of an inbox matter; remembers what it has found out. */
export class Relevance {
  readonly #masks = new Map<number, number>();
  readonly #source: Lens<SourceState, SourceEvent>;
  readonly #destination: Lens<DestinationState, DestinationEvent>;

  constructor(rules: Rules) {
    const resolved = rules.resolves > 0 ? RESOLVED : [];
    this.#source = {
      arrivals: SOURCE_ARRIVALS,
      own: [...SOURCE_EVENTS, ...resolved],
      looksAt: ({ record }) =>
        (record === 'STARTED' ? destinationRecordBit('PREPARED', 0) : 0) |
        destinationRecordBit('LOADED', 0) |
        (rules.mishaps.has('broken-journal') ? NEVER : 0),
      step: rules.stepSource,
    };
    this.#destination = {
      arrivals: DESTINATION_ARRIVALS,
      own: [...DESTINATION_EVENTS, ...resolved],
      looksAt: () => 0,
      step: rules.stepDestination,
    };
  }

  ofSource(state: SourceState, rank: Rank): number {
    return this.#mask(0, this.#source, state, rank);
  }

  ofDestination(state: DestinationState, rank: Rank): number {
    return this.#mask(1, this.#destination, state, rank);
  }

  #mask<State extends AnyState, Event>(
    side: number,
    lens: Lens<State, Event>,
    state: State,
    rank: Rank,
  ): number {
    const code = ((stateCode(state) * 8 + rank.epoch) * 4 + rank.generation) * 2 + side;
    const known = this.#masks.get(code);
    if (known !== undefined) return known;
    let mask = 0;
    const reached = new Map<number, State>([[stateCode(state), state]]);
    for (const one of reached.values()) {
      mask |= lens.looksAt(one);
      const raised = one.rank.epoch - rank.epoch;
      for (const { bit, event } of lens.arrivals) {
        const step = lens.step(one, event(rank));
        if (!isIdle(one, step)) mask |= bit;
        reached.set(stateCode(step.state), step.state);
      }
      if (raised > 3) continue;
      for (const event of lens.own) {
        const { state: next } = lens.step(one, event);
        reached.set(stateCode(next), next);
      }
    }
    this.#masks.set(code, mask);
    return mask;
  }
}

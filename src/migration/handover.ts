/*
 * Who may run the guest. One decider at a time: the source alone until it has written COMMITTED,
 * from then on the destination alone. A pure function, so that every order of events can be
 * explored; both agents obey it and nothing else decides.
 */

/** A durable record of one side. What is not written did not happen. */
export type HandoverRecord =
  | 'STARTED'
  | 'COMMITTED'
  | 'RECLAIMED'
  | 'DONE'
  | 'ABORTED'
  | 'PREPARED'
  | 'LOADED'
  | 'OWNED'
  | 'RUNNING';

/** What the source learns or is asked. */
export type SourceEvent =
  | { readonly type: 'loaded' }
  | { readonly type: 'failed' }
  | { readonly type: 'taken' }
  | { readonly type: 'refused' };

/** What the destination learns or is asked. */
export type DestinationEvent =
  | { readonly type: 'loaded' }
  | { readonly type: 'commit' }
  | { readonly type: 'resumed' }
  | { readonly type: 'never-ran' }
  | { readonly type: 'abort' };

/** What an agent must do, in this order, before it takes the next event. */
export type Effect =
  | { readonly type: 'write'; readonly record: HandoverRecord }
  | { readonly type: 'send-commit' }
  | { readonly type: 'run-here' }
  | { readonly type: 'retire' }
  | { readonly type: 'discard' }
  | { readonly type: 'refuse' };

/** A state and what follows from the event. */
export interface Step<Record extends HandoverRecord> {
  readonly state: Record;
  readonly effects: readonly Effect[];
}

export type SourceRecord = Extract<
  HandoverRecord,
  'STARTED' | 'COMMITTED' | 'RECLAIMED' | 'DONE' | 'ABORTED'
>;
export type DestinationRecord = Extract<
  HandoverRecord,
  'PREPARED' | 'LOADED' | 'OWNED' | 'RUNNING' | 'ABORTED'
>;

/**
 * The source's half. Events that a state does not expect change nothing: calls may arrive twice.
 */
export function stepSource(state: SourceRecord, event: SourceEvent): Step<SourceRecord> {
  switch (`${state}+${event.type}` as const) {
    case 'STARTED+loaded':
      return to('COMMITTED', { type: 'send-commit' });
    case 'STARTED+failed':
      return to('ABORTED', { type: 'run-here' });
    case 'COMMITTED+taken':
      return to('DONE', { type: 'retire' });
    case 'COMMITTED+refused':
      return to('RECLAIMED', { type: 'run-here' });
    default:
      return { state, effects: [] };
  }
}

/** The destination's half. */
export function stepDestination(
  state: DestinationRecord,
  event: DestinationEvent,
): Step<DestinationRecord> {
  switch (`${state}+${event.type}` as const) {
    case 'PREPARED+loaded':
      return to('LOADED');
    case 'PREPARED+abort':
    case 'LOADED+abort':
      return to('ABORTED', { type: 'discard' });
    case 'PREPARED+commit':
      // A commit without a vote cannot come from a sound source; refusing is always safe.
      return to('ABORTED', { type: 'discard' }, { type: 'refuse' });
    case 'LOADED+commit':
      return to('OWNED', { type: 'run-here' });
    case 'OWNED+resumed':
      return to('RUNNING');
    case 'OWNED+never-ran':
      return to('ABORTED', { type: 'discard' }, { type: 'refuse' });
    case 'ABORTED+commit':
      return { state, effects: [{ type: 'refuse' }] };
    default:
      return { state, effects: [] };
  }
}

/** True where the last record of the source lets the guest run there. */
export function sourceMayRun(record: SourceRecord): boolean {
  return record === 'STARTED' || record === 'ABORTED' || record === 'RECLAIMED';
}

/** True where the last record of the destination lets the guest run there. */
export function destinationMayRun(record: DestinationRecord): boolean {
  return record === 'OWNED' || record === 'RUNNING';
}

// A record is always written before anything that follows from it.
function to<R extends HandoverRecord>(state: R, ...effects: Effect[]): Step<R> {
  return { state, effects: [{ type: 'write', record: state }, ...effects] };
}

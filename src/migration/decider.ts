import type {
  DestinationEvent,
  Effect,
  HandoverRecord,
  Rank,
  SourceEvent,
  Step,
} from './handover-types.js';
import type { Journal } from './journal.js';

/** What a decider stands on. */
export interface DeciderParts<State, Event> {
  readonly state: State;
  readonly step: (state: State, event: Event) => Step<State>;
  readonly journal: Pick<Journal, 'append'>;
  /** Stops the guest here at once; must not return before it has. */
  standDown(): Promise<void>;
  /** Hears of every event before it is decided, and of every record when it is written. */
  readonly observe?: (label: string) => void;
}

/**
 * One half of a migration: its state, and the journal that it is written to. Every event of that
 * half comes through here, one after another, and no record is believed before it is written.
 */
export class Decider<
  State extends { readonly record: HandoverRecord; readonly rank: Rank },
  Event extends SourceEvent | DestinationEvent,
> {
  readonly #parts: DeciderParts<State, Event>;
  #state: State;
  #queue: Promise<unknown> = Promise.resolve();
  readonly #tookUs = new Map<HandoverRecord, number>();

  constructor(parts: DeciderParts<State, Event>) {
    this.#parts = parts;
    this.#state = parts.state;
  }

  get state(): State {
    return this.#state;
  }

  /**
   * Takes one event and answers what else is to be done; writing has been done, with `details`.
   *
   * @throws AppendError where a record could not be written: the state is as before
   */
  decide(event: Event, details: object = {}): Promise<readonly Effect[]> {
    const decided = this.#queue.then(() => this.#decide(event, details));
    this.#queue = decided.catch(() => undefined);
    return decided;
  }

  /** Resolves when every event so far has been decided. */
  async idle(): Promise<void> {
    await this.#queue;
  }

  /** What it took to write these records, in microseconds; 0 for those that were not. */
  tookUs(...records: readonly State['record'][]): number {
    return Math.round(records.reduce((sum, record) => sum + (this.#tookUs.get(record) ?? 0), 0));
  }

  async #decide(event: Event, details: object): Promise<readonly Effect[]> {
    const { step, journal, standDown, observe } = this.#parts;
    observe?.(labelOf(event));
    const { state, effects } = step(this.#state, event);
    const left: Effect[] = [];
    for (const effect of effects) {
      if (effect.type === 'write') {
        const beganMs = performance.now();
        const written = journal.append(effect.record, { ...effect.rank, ...details });
        written.catch(() => observe?.(`unwritten ${effect.record}`));
        await written;
        this.#tookUs.set(effect.record, (performance.now() - beganMs) * 1000);
        observe?.(`write ${effect.record}`);
      } else if (effect.type === 'stand-down') await standDown();
      else left.push(effect);
    }
    this.#state = state;
    return left;
  }
}

function labelOf(event: SourceEvent | DestinationEvent): string {
  const detail =
    event.type === 'peer'
      ? event.record
      : event.type === 'restarted'
        ? event.qemu
        : event.type === 'resolved'
          ? event.by
          : '';
  return `event ${event.type} ${detail}`.trimEnd();
}

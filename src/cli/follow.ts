import type { Migration } from '../gen/drover/v1/migration.js';
import { linkSignals } from '../util/linked-signal.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { hasEnded } from './figures.js';

/** One message of a watch. */
interface Snapshot {
  readonly migration: Migration | undefined;
}

/** How a watch is followed. */
export interface FollowOptions {
  /** Opens the watch; the call ends when the signal aborts. */
  readonly watch: (signal: AbortSignal) => AsyncIterable<Snapshot>;
  /** Hears every snapshot. */
  readonly onSnapshot: (migration: Migration) => void;
  /** How long a migration in doubt may take to be settled, in milliseconds. */
  readonly patienceMs: number;
  /** Ends the watch when a person has seen enough. */
  readonly signal: AbortSignal;
}

/**
 * Follows a migration until it has ended and answers its last snapshot. One in doubt is answered
 * when the patience is over, because the peer that could settle it may be gone for long.
 *
 * @throws ReasonedError `AGENT_UNREACHABLE` when the agent ends the watch before that.
 */
export async function follow(options: FollowOptions): Promise<Migration> {
  let last: Migration | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const patience = new AbortController();
  using linked = linkSignals(options.signal, patience.signal);
  try {
    for await (const { migration } of options.watch(linked.signal)) {
      if (!migration) continue;
      last = migration;
      options.onSnapshot(migration);
      if (hasEnded(migration)) return migration;
      if (migration.state === 'STATE_IN_DOUBT') {
        timer ??= setTimeout(() => patience.abort(), options.patienceMs);
      } else {
        clearTimeout(timer);
        timer = undefined;
      }
    }
  } catch (error) {
    if (!patience.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
  }
  if (last?.state === 'STATE_IN_DOUBT') return last;
  throw new ReasonedError(
    'AGENT_UNREACHABLE',
    'The agent ended the watch before the migration ended.',
    {
      hint: 'The migration may go on: watch it again with `drover watch`.',
    },
  );
}

import { MigrationError } from './errors.js';
import type { SourceRecord } from './handover.js';
import type { Migration } from './migration.js';
import { isTerminal } from './migration.js';
import type { PeerState } from './peer.js';
import type { Tracker } from './tracker.js';

const KEPT_ENDED = 1000;

/** Every migration this agent knows, sent or received. */
export class MigrationRegistry {
  readonly #trackers = new Map<string, Tracker>();
  readonly #sourceRecords = new Map<string, () => SourceRecord>();
  readonly #onForget: ((migrationId: string) => void)[] = [];

  /** Adds a migration; the oldest ended ones are forgotten beyond a thousand. */
  add(tracker: Tracker, sourceRecord?: () => SourceRecord): void {
    const { migrationId } = tracker.now;
    this.#trackers.set(migrationId, tracker);
    if (sourceRecord) this.#sourceRecords.set(migrationId, sourceRecord);
    if (this.#trackers.size <= KEPT_ENDED) return;
    for (const [id, known] of this.#trackers) {
      if (!isTerminal(known.now.state)) continue;
      this.#trackers.delete(id);
      this.#sourceRecords.delete(id);
      for (const listener of this.#onForget) listener(id);
      return;
    }
  }

  /** Tells whoever keeps more of a migration when it is forgotten. */
  onForget(listener: (migrationId: string) => void): void {
    this.#onForget.push(listener);
  }

  has(migrationId: string): boolean {
    return this.#trackers.has(migrationId);
  }

  /** @throws MigrationError `MIGRATION_NOT_FOUND` */
  get(migrationId: string): Tracker {
    const tracker = this.#trackers.get(migrationId);
    if (tracker) return tracker;
    throw new MigrationError('MIGRATION_NOT_FOUND', `No migration ${migrationId} is known here.`, {
      facts: { migration_id: migrationId },
    });
  }

  /** Newest first. */
  list(domain: string): readonly Migration[] {
    return [...this.#trackers.values()]
      .map((tracker) => tracker.now)
      .filter((now) => !domain || now.domainName === domain || now.domainUuid === domain)
      .reverse();
  }

  /** What the source's half of a migration has written. */
  sourceState(migrationId: string): PeerState {
    const record = this.#sourceRecords.get(migrationId)?.();
    if (!record) return { record: 'NONE', journalId: '', failure: undefined };
    const tracker = this.get(migrationId);
    return { record, journalId: tracker.journalId, failure: tracker.now.failure };
  }
}

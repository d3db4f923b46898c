import { MigrationError } from './errors.js';
import type { Migration } from './migration.js';
import { isTerminal } from './migration.js';
import type { Tracker } from './tracker.js';

const KEPT_ENDED = 1000;

/** Every migration this agent knows, sent or received. */
export class MigrationRegistry {
  readonly #trackers = new Map<string, Tracker>();
  readonly #settled = new Map<string, () => boolean>();
  readonly #onForget: ((migration: Migration) => void)[] = [];
  readonly #onEnd: ((migration: Migration) => void)[] = [];

  /**
   * Adds a migration; the oldest ended ones are forgotten beyond a thousand, of the two hosts that
   * have most of them, but none before `settled`: its peer may still ask.
   */
  add(tracker: Tracker, settled?: () => boolean): void {
    const { migrationId } = tracker.now;
    this.#trackers.set(migrationId, tracker);
    tracker.onEnd((migration) => {
      for (const listener of this.#onEnd) listener(migration);
    });
    if (settled) this.#settled.set(migrationId, settled);
    if (this.#trackers.size <= KEPT_ENDED) return;
    const oldest = this.#oldestOfMost();
    if (oldest !== undefined) this.forget(oldest);
  }

  /** Forgets one now; its id is free again. */
  forget(migrationId: string): void {
    const { now } = this.get(migrationId);
    this.#trackers.delete(migrationId);
    this.#settled.delete(migrationId);
    for (const listener of this.#onForget) listener(now);
  }

  /** Tells whoever keeps more of a migration when it is forgotten. */
  onForget(listener: (migration: Migration) => void): void {
    this.#onForget.push(listener);
  }

  /**
   * Tells of each migration that ends from now on, once, but not of those that had ended when they
   * were added. A listener must neither throw nor wait: the flow goes on only after it.
   */
  onEnd(listener: (migration: Migration) => void): void {
    this.#onEnd.push(listener);
  }

  /** The migration that brought a domain to a host and whose source may still ask for it. */
  unsettledArrival(domainUuid: string, host: string): Migration | undefined {
    const arrivals = [...this.#trackers.values()].map(({ now }) => now);
    return arrivals.find(
      (now) =>
        now.domainUuid === domainUuid &&
        now.destinationHost === host &&
        this.#settled.get(now.migrationId)?.() === false,
    );
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

  // A host that asks for a thousand migrations must not make us forget those of others.
  #oldestOfMost(): string | undefined {
    const ended = [...this.#trackers]
      .filter(([id, { now }]) => isTerminal(now.state) && this.#settled.get(id)?.() !== false)
      .map(([id, { now }]) => ({ id, hosts: `${now.sourceHost} ${now.destinationHost}` }));
    const counts = new Map<string, number>();
    for (const { hosts } of ended) counts.set(hosts, (counts.get(hosts) ?? 0) + 1);
    const most = Math.max(...counts.values());
    return ended.find(({ hosts }) => counts.get(hosts) === most)?.id;
  }
}

import type { Definition } from './definitions.js';
import { DomainError } from './errors.js';
import type { DomainTools } from './launch.js';

/** The part of a definition that changes while the domain lives here. */
export type Change = Partial<Omit<Definition, 'spec' | 'cpu' | 'pciSlots'>>;

/** Records after which the source alone no longer decides who runs the guest. */
const GIVEN_UP = new Set(['COMMITTED', 'DONE']);

/** Records that end a migration with the guest still here. */
const KEPT = new Set(['ABORTED', 'RECLAIMED']);

/**
 * Who may do what with one domain now: its definition, the migration that claims it, the work under
 * way.
 */
export class Ownership {
  readonly #tools: DomainTools;
  #definition: Definition;
  #writes: Promise<unknown> = Promise.resolve();
  #claim: string | undefined;
  readonly #doing = new Set<string>();
  /** Why nobody may touch the domain; its QEMU may run and cannot be spoken to. */
  silence: string | undefined;

  constructor(definition: Definition, tools: DomainTools) {
    this.#definition = definition;
    this.#tools = tools;
  }

  get definition(): Definition {
    return this.#definition;
  }

  /** The migration that moves the domain now. */
  get migrationId(): string | undefined {
    return this.#claim;
  }

  get ownedHere(): boolean {
    return this.#definition.ownerHost === this.#tools.resources.settings.host;
  }

  /** True where the source has given the guest up and does not know yet who has it. */
  get inDoubt(): boolean {
    return this.ownedHere && GIVEN_UP.has(this.#definition.handover?.record ?? '');
  }

  /** @throws DomainError `DOMAIN_MOVED`, with `owner_host`; `OWNERSHIP_UNKNOWN`; `QEMU_ERROR` */
  assertMayRun(options: { readonly hint?: string } = {}): void {
    const { spec, ownerHost, handover } = this.#definition;
    if (!this.ownedHere) {
      throw new DomainError('DOMAIN_MOVED', `The domain ${spec.name} lives on ${ownerHost}.`, {
        facts: { owner_host: ownerHost },
        ...options,
      });
    }
    if (this.inDoubt && handover) {
      throw new DomainError(
        'OWNERSHIP_UNKNOWN',
        `${spec.name} was given up to ${handover.peer}, which has not said yet whether it took it.`,
        { facts: { migration_id: handover.migrationId, destination_host: handover.peer } },
      );
    }
    if (this.silence !== undefined) {
      throw new DomainError('QEMU_ERROR', `${spec.name}: ${this.silence}`, {
        hint: 'Read its log; restart the agent to try again, or stop the domain with --force.',
      });
    }
  }

  /** @throws DomainError `ALREADY_MIGRATING`, `DOMAIN_BUSY` */
  claim(migrationId: string): void {
    if (this.#claim !== undefined && this.#claim !== migrationId) {
      throw new DomainError(
        'ALREADY_MIGRATING',
        `The domain ${this.#definition.spec.name} is being migrated already.`,
        { facts: { migration_id: this.#claim } },
      );
    }
    this.#assertIdle();
    this.#claim = migrationId;
  }

  unclaim(migrationId: string): void {
    if (this.#claim === migrationId) this.#claim = undefined;
  }

  /**
   * Runs work that nothing else may overlap, except the kind that it overtakes.
   *
   * @throws DomainError `DOMAIN_BUSY`
   */
  async alone<T>(
    kind: string,
    work: () => Promise<T>,
    options: { readonly overtakes?: string | undefined } = {},
  ): Promise<T> {
    if (this.#claim !== undefined) {
      throw new DomainError('DOMAIN_BUSY', `${this.#definition.spec.name} is being migrated.`, {
        facts: { migration_id: this.#claim },
      });
    }
    this.#assertIdle(options.overtakes);
    // Two that overlap by permission are two entries.
    const entry = this.#doing.has(kind) ? `${kind} again` : kind;
    this.#doing.add(entry);
    try {
      return await work();
    } finally {
      this.#doing.delete(entry);
    }
  }

  /** Writes what has changed, durably, after everything that was written before. */
  update(change: Change): Promise<void> {
    const written = this.#writes.then(async () => {
      const definition = { ...this.#definition, ...change };
      await this.#tools.definitions.write(definition);
      this.#definition = definition;
    });
    this.#writes = written.catch(() => undefined);
    return written;
  }

  /** See MigratableDomains. */
  async recordHandover(record: string, migrationId: string, peer: string): Promise<void> {
    await this.update({ handover: KEPT.has(record) ? undefined : { migrationId, record, peer } });
  }

  /** Writes that the domain lives on another host from now on. */
  async moveTo(ownerHost: string): Promise<void> {
    const generation = this.#definition.generation + 1;
    await this.update({ ownerHost, generation, process: undefined, taps: [], handover: undefined });
  }

  #assertIdle(except?: string): void {
    const [doing] = [...this.#doing].filter((entry) => entry !== except);
    if (doing === undefined) return;
    const message = `The domain ${this.#definition.spec.name} is just being ${doing}.`;
    throw new DomainError('DOMAIN_BUSY', message);
  }
}

import type { Definition } from './definitions.js';
import { doubtError } from './doubts.js';
import { DomainError } from './errors.js';
import type { DomainTools } from './launch.js';
import type { Doubt } from './types.js';

/** The part of a definition that changes while the domain lives here. */
export type Change = Partial<Omit<Definition, 'spec' | 'cpu' | 'pciSlots'>>;

/** What an assertion says, and lets pass. */
export interface AssertOptions {
  readonly hint?: string;
  /** An old copy, of which a person has said that it must not run, may be ended and removed. */
  readonly oldCopy?: boolean;
}

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

  /** True where something speaks against every use of a domain that may be this host's. */
  get inDoubt(): boolean {
    return this.doubt !== undefined;
  }

  /** What speaks against it. */
  get doubt(): Doubt | undefined {
    const { spec } = this.#definition;
    return this.ownedHere ? this.#tools.doubts.of(spec.uuid, this.#definition) : undefined;
  }

  /** @throws DomainError `DOMAIN_MOVED`, with `owner_host`; the reason of a doubt */
  assertCertain({ oldCopy = false, ...options }: AssertOptions = {}): void {
    const { spec, ownerHost } = this.#definition;
    if (!this.ownedHere) {
      throw new DomainError('DOMAIN_MOVED', `The domain ${spec.name} lives on ${ownerHost}.`, {
        facts: { owner_host: ownerHost },
        ...options,
      });
    }
    this.#assertNoDoubt({ oldCopy });
  }

  /** @throws DomainError as `assertCertain`; `QEMU_ERROR` for a QEMU that does not answer */
  assertMayRun(options: AssertOptions = {}): void {
    this.assertCertain(options);
    if (this.silence === undefined) return;
    throw new DomainError('QEMU_ERROR', `${this.#definition.spec.name}: ${this.silence}`, {
      hint: 'Read its log; restart the agent to try again, or stop the domain with --force.',
    });
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
   * @throws DomainError `DOMAIN_BUSY`; the reason of a doubt
   */
  async alone<T>(
    kind: string,
    work: () => Promise<T>,
    options: { readonly overtakes?: string | undefined; readonly oldCopy?: boolean } = {},
  ): Promise<T> {
    this.#assertNoDoubt(options);
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

  /** Writes that the domain lives on another host from now on. */
  async moveTo(ownerHost: string): Promise<void> {
    const generation = this.#definition.generation + 1;
    await this.update({ ownerHost, generation, process: undefined, taps: [] });
  }

  #assertNoDoubt({ oldCopy = false }: Pick<AssertOptions, 'oldCopy'>): void {
    if (!this.doubt || (oldCopy && this.doubt.reason === 'OWNERSHIP_LOST')) return;
    throw doubtError(this.doubt);
  }

  #assertIdle(except?: string): void {
    const [doing] = [...this.#doing].filter((entry) => entry !== except);
    if (doing === undefined) return;
    const message = `The domain ${this.#definition.spec.name} is just being ${doing}.`;
    throw new DomainError('DOMAIN_BUSY', message);
  }
}

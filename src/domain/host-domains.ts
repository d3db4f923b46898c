import { chmod, mkdir } from 'node:fs/promises';
import { checkDomainSpec } from '../spec/domain-spec.js';
import { UndoStack } from '../util/undo-stack.js';
import { planCreation } from './creation.js';
import { Definitions, type StoredDomain } from './definitions.js';
import { DomainError } from './errors.js';
import { HostResources } from './host-resources.js';
import type { HostSettings } from './host-settings.js';
import { HostedDomain } from './hosted-domain.js';
import { makeImages, reserveRoom } from './images.js';
import { type IncomingBooks, startIncoming } from './incoming-start.js';
import type { DomainTools } from './launch.js';
import type { DomainInfo, DomainManager, HostFacts } from './manager.js';
import { reattach } from './reattach.js';
import { Refusals } from './refusals.js';
import { describeComing, type Expected, Roster } from './roster.js';
import type { Domain, IncomingDomain, IncomingRequest, WaitOptions } from './types.js';

/** All domains of this host. */
export class HostDomains implements DomainManager {
  readonly #settings: HostSettings;
  readonly #tools: DomainTools;
  readonly #roster: Roster;
  readonly #background = new Set<Promise<void>>();

  private constructor(settings: HostSettings) {
    this.#settings = settings;
    this.#tools = {
      resources: new HostResources(settings),
      definitions: new Definitions(settings.directories.state),
    };
    this.#roster = new Roster(settings.host);
  }

  /**
   * Opens the domains of this host and finds those again that run. A definition that cannot be
   * understood is logged and left alone.
   */
  static async open(
    settings: HostSettings,
    options: Partial<WaitOptions> = {},
  ): Promise<HostDomains> {
    const { log, directories } = settings;
    await mkdir(directories.run, { recursive: true, mode: 0o700 });
    await chmod(directories.run, 0o700);
    const domains = new HostDomains(settings);
    const signal = options.signal ?? new AbortController().signal;
    const report = (path: string, error: unknown) =>
      log.error({ err: error, path }, 'a domain could not be read');
    const stored = await domains.#tools.definitions.readAll(report);
    await Promise.all(stored.map((one) => domains.#reopen(one, signal)));
    return domains;
  }

  async create(input: unknown, options: WaitOptions): Promise<DomainInfo> {
    const { log, host } = this.#settings;
    const { resources, definitions } = this.#tools;
    const refusals = new Refusals();
    const { spec, violations } = checkDomainSpec(input);
    for (const { reason, subject, message } of violations) refusals.add(reason, subject, message);
    if (!spec) throw refusals.error('The spec is wrong');
    this.#roster.checkFree(spec, refusals);
    await using undo = this.#undoStack();
    using _held = disposable(this.#roster.expect({ spec, coming: undefined }));
    const { definition, wishes } = await planCreation(spec, resources, refusals, options);
    const { uuid, name } = definition.spec;
    const room = await refusals.check('disks', () => reserveRoom(uuid, wishes));
    using _room = disposable(() => room?.release());
    refusals.throwIfAny(`The domain ${name} cannot be created on ${host}`);
    await makeImages(uuid, wishes, undo, options);
    await definitions.write(definition);
    undo.release();
    const domain = new HostedDomain(definition, this.#tools);
    this.#roster.add(domain);
    log.info({ domain: name, uuid }, 'created a domain');
    this.#changed(uuid);
    return domain.info();
  }

  async start(
    reference: string,
    settings: { readonly paused: boolean },
    options: WaitOptions,
  ): Promise<DomainInfo> {
    const domain = this.#roster.find(reference);
    await domain.start(settings, options);
    return domain.info();
  }

  async stop(
    reference: string,
    settings: { readonly force: boolean; readonly timeLimitMs: number },
    options: WaitOptions,
  ): Promise<DomainInfo> {
    const domain = this.#roster.find(reference);
    await domain.stop(settings, options);
    return domain.info();
  }

  async delete(reference: string, settings: { readonly tombstone: boolean }): Promise<void> {
    const domain = settings.tombstone
      ? this.#roster.findTombstone(reference)
      : this.#roster.find(reference);
    if (settings.tombstone) {
      const { tombstoneBytes } = await domain.info();
      if (domain.ownership.ownedHere && tombstoneBytes === 0) {
        const message = `${domain.name} has no tombstone on ${this.#settings.host}.`;
        throw new DomainError('REQUEST_INVALID', message, {
          hint: 'See `drover list`; give the UUID where two domains have one name.',
        });
      }
      await domain.removeTombstone();
      if (domain.ownership.ownedHere) return;
      // Of a domain that lives elsewhere the tombstone was all there is.
      await domain.forget();
    } else {
      await domain.remove();
    }
    this.#roster.remove(domain.uuid);
    this.#changed(domain.uuid);
  }

  async get(reference: string): Promise<DomainInfo> {
    const coming = this.#roster.findComing(reference);
    return coming ? describeComing(coming) : this.#roster.find(reference).info();
  }

  list(): Promise<readonly DomainInfo[]> {
    return this.#roster.describeAll();
  }

  facts(): Promise<HostFacts> {
    return this.#tools.resources.facts();
  }

  claim(nameOrUuid: string, migrationId: string): Domain {
    const coming = this.#roster.findComing(nameOrUuid);
    if (coming) {
      const { sourceHost, migrationId: other } = coming.coming;
      throw new DomainError(
        'DOMAIN_NOT_RUNNING',
        `The domain ${nameOrUuid} is just coming from ${sourceHost}.`,
        { facts: { owner_host: sourceHost, migration_id: other } },
      );
    }
    return this.#roster.find(nameOrUuid).claim(migrationId);
  }

  unclaim(uuid: string, migrationId: string): void {
    this.#roster.get(uuid)?.ownership.unclaim(migrationId);
    this.#changed(uuid);
  }

  async recordHandover(
    uuid: string,
    record: string,
    migrationId: string,
    peer: string,
  ): Promise<void> {
    await this.#roster.find(uuid).ownership.recordHandover(record, migrationId, peer);
  }

  async startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain> {
    const { spec } = request.launchSpec;
    const refusals = new Refusals();
    this.#roster.checkArrival(request, refusals);
    // A domain that is refused for being here must not seem to come as well.
    const expected: Expected = { spec, coming: request };
    const forget = refusals.empty ? this.#roster.expect(expected) : () => {};
    const books: IncomingBooks = {
      earlier: this.#roster.get(spec.uuid)?.definition,
      started: (pid) => {
        expected.qemuPid = pid;
      },
      gone: () => {
        forget();
        this.#changed(spec.uuid);
      },
      arrived: (definition, running) => {
        const domain = new HostedDomain(definition, this.#tools);
        domain.adopt(running);
        this.#roster.add(domain);
        forget();
        this.#inBackground('tidy up after an arrival', async () => {
          await this.#tools.definitions.removeIncoming(spec.uuid);
          await domain.removeTombstone();
        });
        this.#changed(spec.uuid);
      },
    };
    return startIncoming(request, books, refusals, this.#tools, options);
  }

  /** Lets go of all QEMUs at the agent's end; the guests run on. */
  async close(): Promise<void> {
    await Promise.all(this.#background);
    await Promise.all(this.#roster.domains.map((domain) => domain.release()));
  }

  async #reopen(stored: StoredDomain, signal: AbortSignal): Promise<void> {
    try {
      const domain = await reattach(stored, this.#tools, { signal });
      if (domain) this.#roster.add(domain);
    } catch (error) {
      signal.throwIfAborted();
      this.#settings.log.error({ err: error, uuid: stored.uuid }, 'could not find a domain again');
      if (!stored.definition) return;
      const domain = new HostedDomain(stored.definition, this.#tools);
      domain.ownership.silence = 'the agent could not find out whether it runs; see its log.';
      this.#roster.add(domain);
    }
  }

  #inBackground(what: string, work: () => Promise<void>): void {
    const running = work()
      .catch((error) => this.#settings.log.error({ err: error }, `could not ${what}`))
      .finally(() => this.#background.delete(running));
    this.#background.add(running);
  }

  #undoStack(): UndoStack {
    return new UndoStack(({ step, error }) =>
      this.#settings.log.error({ err: error, step }, 'could not undo a step'),
    );
  }

  #changed(uuid: string): void {
    this.#settings.onChange?.(uuid);
  }
}

function disposable(dispose: () => void): Disposable {
  return { [Symbol.dispose]: dispose };
}

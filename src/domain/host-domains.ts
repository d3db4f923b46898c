import { checkDomainSpec } from '../spec/domain-spec.js';
import { UndoStack } from '../util/undo-stack.js';
import { Arrivals } from './arrivals.js';
import { planCreation } from './creation.js';
import { openProbe } from './data-ports.js';
import { Definitions, type StoredDomain } from './definitions.js';
import { type Copy, isNewer } from './doubt.js';
import { Doubts } from './doubts.js';
import { DomainError } from './errors.js';
import { openFolders } from './host-folders.js';
import { HostResources } from './host-resources.js';
import type { HostSettings } from './host-settings.js';
import { HostedDomain } from './hosted-domain.js';
import { makeImages, reserveRoom } from './images.js';
import type { DomainTools } from './launch.js';
import type { DomainInfo, DomainManager, HostFacts } from './manager.js';
import { QemuOutgoingDomain } from './outgoing-domain.js';
import { hasArrived, reattach } from './reattach.js';
import { Refusals } from './refusals.js';
import { describeComing, Roster } from './roster.js';
import type {
  DataProbe,
  Domain,
  Doubt,
  IncomingDomain,
  IncomingRequest,
  OutgoingDomain,
  WaitOptions,
} from './types.js';

/** All domains of this host. */
export class HostDomains implements DomainManager {
  readonly #settings: HostSettings;
  readonly #tools: DomainTools;
  readonly #roster: Roster;
  readonly #arrivals: Arrivals;

  private constructor(settings: HostSettings, quarantine: Doubt | undefined) {
    this.#settings = settings;
    this.#tools = {
      resources: new HostResources(settings),
      definitions: new Definitions(settings.directories.state),
      doubts: new Doubts(quarantine),
    };
    this.#roster = new Roster(settings.host);
    this.#arrivals = new Arrivals(this.#roster, this.#tools);
  }

  /**
   * Opens the domains of this host and finds those again that run. A definition that cannot be
   * understood is logged and left alone. What was on its way in is kept aside until it is recovered
   * or `sweep` removes it. With a quarantine every domain is in doubt, none comes and none is made,
   * and nothing is removed.
   */
  static async open(
    settings: HostSettings,
    options: Partial<WaitOptions> & { readonly quarantine?: Doubt | undefined } = {},
  ): Promise<HostDomains> {
    const { log } = settings;
    await openFolders(settings);
    const domains = new HostDomains(settings, options.quarantine);
    const signal = options.signal ?? new AbortController().signal;
    const report = (path: string, error: unknown) =>
      log.error({ err: error, path }, 'a domain could not be read');
    const stored = await domains.#tools.definitions.readAll(report);
    await Promise.all(stored.map((one) => domains.#reopen(one, signal)));
    return domains;
  }

  async create(input: unknown, options: WaitOptions): Promise<DomainInfo> {
    const { log, host } = this.#settings;
    const { resources, definitions, doubts } = this.#tools;
    doubts.assertNoQuarantine();
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
      const tombstoneBytes = () => this.#tools.resources.tombstoneBytes(domain.uuid);
      if (domain.ownership.ownedHere && (await tombstoneBytes()) === 0) {
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

  doubt(uuid: string, doubt: Doubt | undefined, migrationId = ''): void {
    this.#tools.doubts.set(uuid, doubt, migrationId);
    this.#changed(uuid);
  }

  async raiseEpoch(uuid: string, epoch: number): Promise<void> {
    const { ownership } = this.#roster.find(uuid);
    if (ownership.definition.epoch < epoch) await ownership.update({ epoch });
    this.#changed(uuid);
  }

  async standDown(uuid: string, copy: Copy): Promise<void> {
    const domain = this.#roster.get(uuid);
    if (domain && !isNewer(domain.definition, copy)) await domain.standDown();
  }

  recoverOutgoing(uuid: string, migrationId: string): OutgoingDomain | undefined {
    this.#tools.doubts.assertNoQuarantine();
    const domain = this.#roster.get(uuid);
    if (!domain?.ownership.ownedHere) return undefined;
    domain.ownership.claim(migrationId);
    return new QemuOutgoingDomain(domain, this.#tools);
  }

  recoverIncoming(
    uuid: string,
    migrationId: string,
    options: WaitOptions,
  ): Promise<IncomingDomain | undefined> {
    return this.#arrivals.recover(uuid, migrationId, options);
  }

  sweep(options: WaitOptions): Promise<void> {
    return this.#arrivals.sweep(options);
  }

  assertMayArrive({ launchSpec, sourceHost, ...copy }: IncomingRequest): void {
    const refusals = new Refusals();
    this.#roster.checkUuid(launchSpec.spec, { sourceHost, ...copy }, refusals);
    const { host } = this.#settings;
    refusals.throwIfAny(`${host} cannot take the domain ${launchSpec.spec.name}`, 'destination');
  }

  async openProbe({ signal }: WaitOptions): Promise<DataProbe> {
    signal.throwIfAborted();
    return await openProbe(this.#settings.data);
  }

  startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain> {
    return this.#arrivals.start(request, options);
  }

  /** Lets go of all QEMUs at the agent's end; the guests run on. */
  async close(): Promise<void> {
    await this.#arrivals.close();
    await Promise.all(this.#roster.domains.map((domain) => domain.release()));
  }

  async #reopen(stored: StoredDomain, signal: AbortSignal): Promise<void> {
    try {
      const { definition } = stored;
      // The agent's end came between an arrival's two files.
      if (hasArrived(stored, this.#tools)) await this.#forgetArrival(stored.uuid);
      else this.#arrivals.keep(stored);
      if (!definition) return;
      this.#roster.add(await reattach(definition, this.#tools, { signal }));
    } catch (error) {
      signal.throwIfAborted();
      this.#settings.log.error({ err: error, uuid: stored.uuid }, 'could not find a domain again');
      if (!stored.definition) return;
      const domain = new HostedDomain(stored.definition, this.#tools);
      domain.ownership.silence = 'the agent could not find out whether it runs; see its log.';
      this.#roster.add(domain);
    }
  }

  async #forgetArrival(uuid: string): Promise<void> {
    const { definitions, doubts } = this.#tools;
    if (!doubts.quarantine) await definitions.removeIncoming(uuid);
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

import type { DomainSpec } from '../spec/domain-spec.js';
import { isNewer } from './doubt.js';
import { DomainError } from './errors.js';
import type { HostedDomain } from './hosted-domain.js';
import type { DomainInfo } from './manager.js';
import type { Refusals } from './refusals.js';
import type { IncomingRequest } from './types.js';

/** What is told of a migration that brings a domain. */
type Arrival = Pick<IncomingRequest, 'migrationId' | 'epoch' | 'generation' | 'sourceHost'>;

/** A domain that is not here yet and holds its name and UUID already. */
export interface Expected {
  readonly spec: DomainSpec;
  /** The migration that brings it; undefined for one that is being created. */
  readonly coming: Arrival | undefined;
  /** Of the QEMU that waits for it, once that is there. */
  qemuPid?: number;
}

/** A domain on its way in. */
export type Coming = Expected & { readonly coming: Arrival };

/** The names of a host: which domains are here, and which are expected. */
export class Roster {
  readonly #host: string;
  readonly #domains = new Map<string, HostedDomain>();
  readonly #expected = new Set<Expected>();

  constructor(host: string) {
    this.#host = host;
  }

  get domains(): readonly HostedDomain[] {
    return [...this.#domains.values()];
  }

  /** Takes a domain in, in place of what was known of it before. */
  add(domain: HostedDomain): void {
    this.#domains.set(domain.uuid, domain);
  }

  remove(uuid: string): void {
    this.#domains.delete(uuid);
  }

  get(uuid: string): HostedDomain | undefined {
    return this.#domains.get(uuid);
  }

  /** Holds name and UUID until the answer is called. */
  expect(expected: Expected): () => void {
    this.#expected.add(expected);
    return () => void this.#expected.delete(expected);
  }

  /**
   * Finds a domain by name or UUID. Of several of one name, the one that lives here is meant.
   *
   * @throws DomainError `DOMAIN_NOT_FOUND`
   */
  find(reference: string): HostedDomain {
    const named = this.domains.filter(({ name }) => name === reference);
    const found =
      this.#domains.get(reference.toLowerCase()) ??
      named.find(({ ownership }) => ownership.ownedHere) ??
      named[0];
    if (found) return found;
    throw new DomainError(
      'DOMAIN_NOT_FOUND',
      `${this.#host} has no domain ${JSON.stringify(reference.slice(0, 64))}.`,
    );
  }

  /**
   * Finds the domain whose tombstone is meant. Of several of one name, it is one that has moved
   * away.
   *
   * @throws DomainError `DOMAIN_NOT_FOUND`
   */
  findTombstone(reference: string): HostedDomain {
    const moved = this.domains.find(
      ({ name, ownership }) => name === reference && !ownership.ownedHere,
    );
    return this.#domains.get(reference.toLowerCase()) ?? moved ?? this.find(reference);
  }

  /** Finds a domain on its way in by name or UUID. */
  findComing(reference: string): Coming | undefined {
    return this.#coming().find(
      ({ spec }) => spec.name === reference || spec.uuid === reference.toLowerCase(),
    );
  }

  /** All domains by name, each once: one on its way in hides what it left here earlier. */
  async describeAll(): Promise<readonly DomainInfo[]> {
    const coming = this.#coming();
    const here = this.domains.filter(({ uuid }) => !coming.some(({ spec }) => spec.uuid === uuid));
    const infos = await Promise.all(here.map((domain) => domain.info()));
    return [...infos, ...coming.map(describeComing)].sort((one, other) =>
      one.spec.name < other.spec.name ? -1 : 1,
    );
  }

  /** Refuses a new domain whose name or UUID is taken. */
  checkFree({ uuid, name }: DomainSpec, refusals: Refusals): void {
    const specs = [
      ...this.domains.map((domain) => domain.definition.spec),
      ...[...this.#expected].map(({ spec }) => spec),
    ];
    if (uuid !== '' && specs.some((other) => other.uuid === uuid)) {
      const message = `${this.#host} has a domain of the UUID ${uuid} already`;
      refusals.add('DOMAIN_EXISTS', 'uuid', message);
    }
    if (this.#nameTaken(name)) {
      refusals.add('DOMAIN_EXISTS', 'name', `${this.#host} has a domain ${name} already`);
    }
  }

  /** Refuses a domain that comes in while it, or another of its name, lives here. */
  checkArrival(request: IncomingRequest, refusals: Refusals): void {
    const { uuid, name } = request.launchSpec.spec;
    this.checkUuid({ uuid, name }, request, refusals);
    if (this.#nameTaken(name, uuid)) {
      refusals.add('DOMAIN_EXISTS', 'name', `${this.#host} has another domain ${name}`);
    }
  }

  /** Refuses a domain that comes in while it lives here, is coming already or has been newer. */
  checkUuid({ uuid, name }: Pick<DomainSpec, 'uuid' | 'name'>, copy: Arrival, refusals: Refusals) {
    const known = this.#domains.get(uuid);
    const other = this.#coming().find(({ spec: { uuid: theirs } }) => theirs === uuid);
    if (other) {
      const message = `the domain ${name} is on its way to ${this.#host} already`;
      const { migrationId, sourceHost } = other.coming;
      // Of a migration between others, a host need not even learn the id.
      const facts = sourceHost === copy.sourceHost ? { migration_id: migrationId } : {};
      refusals.add('ALREADY_MIGRATING', 'uuid', message, facts);
    }
    if (known?.ownership.ownedHere) {
      refusals.add('DOMAIN_EXISTS', 'uuid', `the domain ${name} lives on ${this.#host}`);
    } else if (known && !isNewer(copy, known.definition)) {
      // Its source missed that the domain moved on: what it sends is an old copy.
      const { epoch, generation } = known.definition;
      const knows = `${this.#host} knows generation ${epoch}.${generation} of ${name}`;
      const message = `${knows}; this is ${copy.epoch}.${copy.generation}`;
      refusals.add('DOMAIN_EXISTS', 'uuid', message, { epoch, generation });
    }
  }

  #nameTaken(name: string, except?: string): boolean {
    const here = this.domains.filter(({ ownership }) => ownership.ownedHere);
    const specs = [
      ...here.map(({ definition }) => definition.spec),
      ...[...this.#expected].map(({ spec }) => spec),
    ];
    return specs.some(
      (spec) => spec.name === name && (except === undefined || spec.uuid !== except),
    );
  }

  #coming(): Coming[] {
    return [...this.#expected].filter((one): one is Coming => one.coming !== undefined);
  }
}

/** A domain on its way in, as shown to callers. */
export function describeComing({ spec, coming, qemuPid = 0 }: Coming): DomainInfo {
  return {
    spec,
    state: 'INCOMING',
    ownerHost: coming.sourceHost,
    epoch: coming.epoch,
    generation: coming.generation - 1,
    qemuPid,
    serialPath: '',
    migrationId: coming.migrationId,
    tombstoneBytes: 0,
    doubt: undefined,
  };
}

import { type Copy, type Doubt, isNewer } from './doubt.js';
import { DomainError } from './errors.js';

/**
 * Why domains of this host must be left alone, for as long as the agent lives. What lasts is in the
 * journals, and whoever reads them says it here again.
 */
export class Doubts {
  /** What speaks against every domain of this host, as where its state is not its own. */
  readonly quarantine: Doubt | undefined;
  readonly #byUuid = new Map<string, Map<string, Doubt>>();

  constructor(quarantine?: Doubt) {
    this.quarantine = quarantine;
  }

  /** What speaks against a copy of a domain. A doubt about an older copy says nothing of it. */
  of(uuid: string, copy: Copy): Doubt | undefined {
    const doubts = [...(this.#byUuid.get(uuid)?.values() ?? [])];
    return this.quarantine ?? doubts.find(({ copy: meant }) => !meant || !isNewer(copy, meant));
  }

  /**
   * Says it, also of a domain that is not here yet; undefined: all is clear as far as that
   * migration goes.
   */
  set(uuid: string, doubt: Doubt | undefined, migrationId: string): void {
    const doubts = this.#byUuid.get(uuid) ?? new Map<string, Doubt>();
    this.#byUuid.set(uuid, doubts);
    if (doubt) doubts.set(migrationId, doubt);
    else doubts.delete(migrationId);
    if (doubts.size === 0) this.#byUuid.delete(uuid);
  }

  /** @throws DomainError with the reason of the quarantine, if there is one */
  assertNoQuarantine(): void {
    if (this.quarantine) throw doubtError(this.quarantine);
  }
}

/** What a caller gets who wants to do something to a domain in doubt. */
export function doubtError({ reason, message, hint, facts }: Doubt): DomainError {
  return new DomainError(reason, message, {
    ...(hint === undefined ? {} : { hint }),
    ...(facts === undefined ? {} : { facts }),
  });
}

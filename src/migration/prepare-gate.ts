import type {
  DataProbe,
  IncomingDomain,
  IncomingRequest,
  MigratableDomains,
  WaitOptions,
} from '../domain/types.js';
import type { Turns } from './turns.js';

/** What a destination's flow needs of the host's domains. */
export type ArrivalDomains = Pick<MigratableDomains, 'startIncoming' | 'openProbe'>;

/**
 * Lets a few QEMUs start at once and the others wait: what a start takes of the host, the guests
 * miss that are just being switched over.
 */
export class PrepareGate implements ArrivalDomains {
  readonly #domains: ArrivalDomains;
  readonly #turns: Turns;

  constructor(domains: ArrivalDomains, turns: Turns) {
    this.#domains = domains;
    this.#turns = turns;
  }

  async startIncoming(request: IncomingRequest, options: WaitOptions): Promise<IncomingDomain> {
    using _turn = await this.#turns.take(options);
    return await this.#domains.startIncoming(request, options);
  }

  openProbe(options: WaitOptions): Promise<DataProbe> {
    return this.#domains.openProbe(options);
  }
}

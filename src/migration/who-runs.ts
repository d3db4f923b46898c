import type { DomainInfo } from '../domain/manager.js';
import type { Clock } from '../util/clock.js';
import { asReasoned, MigrationError, toFailure } from './errors.js';
import type { JournalFile } from './journals.js';
import { type ClaimSources, claimOf } from './ownership-claim.js';
import { nextHosts, type Ownership, type Statement, weigh } from './ownership-verdict.js';

/** What finding the host of a domain needs of the agent. */
export interface WhoRunsTools {
  readonly host: string;
  /** @throws ReasonedError `DOMAIN_NOT_FOUND` */
  readonly domain: (reference: string) => Promise<DomainInfo>;
  /** Read anew from disk for every question. */
  readonly journals: () => Promise<readonly JournalFile[]>;
  readonly undecided: ClaimSources['undecided'];
  /** Why nothing that is written here can be relied on; undefined where it can. */
  readonly quarantine: string | undefined;
  /**
   * Asks another agent, which may ask further ones: what it says itself is the first statement.
   *
   * @throws ReasonedError `DOMAIN_NOT_FOUND`; whatever kept it from answering
   */
  readonly ask: (host: string, question: Question) => Promise<readonly Statement[]>;
  readonly clock: Clock;
}

/** What one agent asks another. */
export interface Question {
  readonly domainUuid: string;
  /** Hosts that are not to be asked again. */
  readonly askedHosts: readonly string[];
  /** Milliseconds within which it must answer. */
  readonly limitMs: number;
}

/** What callers may ask about the whereabouts of domains. */
export interface OwnershipPort {
  /**
   * Says which host has a domain: by what is in writing here, and by the hosts that this names.
   *
   * @param reference A name or a UUID.
   * @param askedHosts Hosts that have been asked already.
   * @throws ReasonedError `DOMAIN_NOT_FOUND`, `REQUEST_INVALID`, `LIMIT_REACHED`
   */
  whoRuns(reference: string, askedHosts: readonly string[]): Promise<Ownership>;
}

/** How many hosts a question may go through. */
export const HOPS_LIMIT = 8;
/** Each further host has a second less, so that whoever asked still waits when it gives up. */
const FIRST_LIMIT_MS = 10_000;
const LESS_MS = 1_000;
/** How many are answered at once: each reads every journal and asks other hosts. */
const QUESTIONS_LIMIT = 32;

/** Finds the host that has a domain, from host to host. */
export class WhoRuns implements OwnershipPort {
  readonly #tools: WhoRunsTools;
  #open = 0;

  constructor(tools: WhoRunsTools) {
    this.#tools = tools;
  }

  async whoRuns(reference: string, askedHosts: readonly string[]): Promise<Ownership> {
    if (this.#open >= QUESTIONS_LIMIT) {
      const message = `This agent answers ${QUESTIONS_LIMIT} such questions already.`;
      const facts = { limit: 'questions WhoRuns under way', limit_value: QUESTIONS_LIMIT };
      throw new MigrationError('LIMIT_REACHED', message, { facts });
    }
    this.#open++;
    try {
      return await this.#whoRuns(reference, askedHosts);
    } finally {
      this.#open--;
    }
  }

  async #whoRuns(reference: string, askedHosts: readonly string[]): Promise<Ownership> {
    const { host, clock } = this.#tools;
    if (askedHosts.length > HOPS_LIMIT) {
      const message = `The question has gone through ${askedHosts.length} hosts.`;
      throw new MigrationError('REQUEST_INVALID', message);
    }
    const claim = claimOf(await this.#sources(reference));
    if (!claim) throw notFound(host, reference);
    const first = { host, saidTime: clock.date(), claim, problem: undefined };
    const next = nextHosts(claim, host).filter((one) => !askedHosts.includes(one));
    if (askedHosts.length >= HOPS_LIMIT) return weigh(first, []);
    const limitMs = FIRST_LIMIT_MS - LESS_MS * askedHosts.length;
    const answers = await Promise.all(
      next.map((one) => {
        // None of those that are asked now need ask each other.
        const asked = [...askedHosts, host, ...next.filter((other) => other !== one)];
        const { domainUuid } = claim;
        return this.#ask(one, { domainUuid, askedHosts: asked.slice(0, HOPS_LIMIT), limitMs });
      }),
    );
    // What a host says itself counts before what another one says in its name.
    const own = answers.flatMap((statements) => statements.slice(0, 1));
    const said = unique(host, [...own, ...answers.flatMap((statements) => statements.slice(1))]);
    const verdict = weigh(first, said);
    // Whoever was asked first makes sure.
    return askedHosts.length > 0 ? verdict : await this.#confirmed(verdict, first, said, next);
  }

  /** The owner's word may have been passed on by another host, or made up: it is asked itself. */
  async #confirmed(
    verdict: Ownership,
    first: Parameters<typeof weigh>[0],
    said: readonly Statement[],
    asked: readonly string[],
  ): Promise<Ownership> {
    const { certainty, ownerHost: owner, domainUuid } = verdict;
    if (certainty !== 'CERTAIN' || owner === undefined) return verdict;
    if (owner === first.host || asked.includes(owner)) return verdict;
    const hosts = [first.host, ...said.map(({ host }) => host)];
    const askedHosts = hosts.slice(0, HOPS_LIMIT);
    const [own] = await this.#ask(owner, { domainUuid, askedHosts, limitMs: FIRST_LIMIT_MS });
    return weigh(
      first,
      said.map((one) => (one.host === owner && own ? own : one)),
    );
  }

  async #sources(reference: string): Promise<ClaimSources> {
    const { host, domain, journals, undecided, quarantine } = this.#tools;
    const [info, all] = await Promise.all([
      domain(reference).catch((error: unknown) => {
        if (asReasoned(error).reason === 'DOMAIN_NOT_FOUND') return undefined;
        throw error;
      }),
      journals(),
    ]);
    const uuid = info?.spec.uuid ?? uuidIn(all, reference);
    const own = all.filter(({ domainUuid }) => domainUuid === uuid);
    return { host, info, journals: own, undecided, quarantine };
  }

  async #ask(host: string, question: Question): Promise<readonly Statement[]> {
    const saidTime = this.#tools.clock.date();
    try {
      const [own, ...passedOn] = await this.#tools.ask(host, question);
      return own ? [{ ...own, host }, ...passedOn] : [];
    } catch (error) {
      const silent = asReasoned(error).reason !== 'DOMAIN_NOT_FOUND';
      const problem = silent ? toFailure(error, undefined, undefined) : undefined;
      return [{ host, saidTime, claim: undefined, problem }];
    }
  }
}

/** The domain that is meant where none of that name is defined here: that of the last journal. */
function uuidIn(journals: readonly JournalFile[], reference: string): string | undefined {
  const byUuid = journals.find(({ domainUuid }) => domainUuid === reference.toLowerCase());
  const named = journals
    .filter(({ header }) => header?.domainName === reference)
    .sort((one, other) =>
      (one.header?.createTime ?? '') < (other.header?.createTime ?? '') ? -1 : 1,
    );
  return byUuid?.domainUuid ?? named.at(-1)?.domainUuid;
}

/** Each host once; who answered before who did not. */
function unique(self: string, statements: readonly Statement[]): Statement[] {
  const byHost = new Map<string, Statement>();
  for (const statement of statements) {
    const known = byHost.get(statement.host);
    if (statement.host === self || (known && !known.problem)) continue;
    byHost.set(statement.host, statement);
  }
  return [...byHost.values()];
}

function notFound(host: string, reference: string): MigrationError {
  const name = JSON.stringify(reference.slice(0, 64));
  return new MigrationError('DOMAIN_NOT_FOUND', `${host} knows nothing of a domain ${name}.`, {
    hint: 'Ask the agents of the other hosts; see `drover peers`.',
  });
}

import type { DomainState } from '../domain/manager.js';
import type { Failure } from './errors.js';
import { outranks, type Rank } from './handover-types.js';
import type { Certainty, Claim, ClaimedMigration } from './ownership-claim.js';

/** What one host said of a domain when it was asked, or that it did not answer. */
export interface Statement {
  readonly host: string;
  /** When it said it, or was asked. */
  readonly saidTime: Date;
  /** Undefined where it did not answer, or does not know the domain. */
  readonly claim: Claim | undefined;
  /** Why it did not answer; undefined where it did. */
  readonly problem: Failure | undefined;
}

/** A host that says something else than the verdict. */
export interface Contradiction {
  readonly host: string;
  readonly explanation: string;
}

/** Which host has a domain, and how that is known. */
export interface Ownership {
  readonly domainUuid: string;
  readonly domainName: string;
  readonly certainty: Certainty;
  /** Undefined where it is not known. */
  readonly ownerHost: string | undefined;
  readonly rank: Rank;
  /** What the domain does on the owner; undefined where that has not answered. */
  readonly state: DomainState | undefined;
  readonly since: Date | undefined;
  readonly migrationId: string | undefined;
  readonly explanation: string;
  /** What would settle it; empty where nothing is to be settled. */
  readonly toSettle: string;
  /** In the order in which they were asked. */
  readonly statements: readonly Statement[];
  readonly contradictions: readonly Contradiction[];
}

type Said = Statement & { readonly claim: Claim };
/** A host that says which host the owner is. */
type Named = Said & { readonly claim: Claim & { readonly ownerHost: string } };

/**
 * Puts together what hosts have in writing. Of those that name an owner the one of the highest rank
 * counts, and of equals the owner itself; what contradicts it is told.
 *
 * @param first What the host said that was asked first: it knows the domain.
 */
export function weigh(first: Said, others: readonly Statement[]): Ownership {
  const statements = [first, ...others];
  const said = statements.filter((one): one is Said => one.claim !== undefined);
  const best = said.filter(isNamed).reduce<Named | undefined>(better, undefined);
  const doubt = said.findLast(({ claim }) => claim.certainty === 'IN_DOUBT');
  const { domainUuid, domainName } = first.claim;
  const common = { domainUuid, domainName: domainName || nameIn(said), statements };
  if (best && !(doubt && isOpen(doubt, best))) return { ...common, ...settled(best, statements) };
  if (doubt) return { ...common, ...inDoubt(doubt, statements) };
  return { ...common, ...unknown(said) };
}

type Verdict = Omit<Ownership, 'domainUuid' | 'domainName' | 'statements'>;

function isNamed(one: Said): one is Named {
  return one.claim.certainty === 'CERTAIN' && one.claim.ownerHost !== undefined;
}

function better(best: Named | undefined, one: Named): Named {
  if (!best) return one;
  if (outranks(one.claim.rank, best.claim.rank)) return one;
  if (outranks(best.claim.rank, one.claim.rank)) return best;
  return agreesWith(one) && !agreesWith(best) ? one : best;
}

/** True where the best word about the owner does not end a doubt that another host has. */
function isOpen(doubt: Said, best: Named): boolean {
  // A source that has given the guest up only waits for its destination's word, and that is it.
  if (agreesWith(best)) return outranks(doubt.claim.rank, best.claim.rank);
  return !outranks(best.claim.rank, doubt.claim.rank);
}

function settled(best: Named, statements: readonly Statement[]): Verdict {
  const { claim } = best;
  const owner = statements.find(({ host }) => host === claim.ownerHost);
  const silent = owner === undefined || owner.problem !== undefined;
  const agrees = owner !== undefined && agreesWith(owner);
  return {
    certainty: agrees ? 'CERTAIN' : silent ? 'REPORTED' : 'UNKNOWN',
    ownerHost: agrees || silent ? claim.ownerHost : undefined,
    rank: claim.rank,
    state: agrees ? owner.claim?.state : undefined,
    since: claim.migration?.recordTime,
    migrationId: claim.migration?.migrationId,
    explanation: explain(best, owner),
    toSettle: agrees ? '' : toFind(claim.ownerHost, silent),
    contradictions: contradictionsOf(best, statements),
  };
}

/** True for a host that says that the domain is its own. */
function agreesWith({ host, claim }: Statement): boolean {
  return claim?.ownerHost === host;
}

function explain({ host, claim, saidTime }: Named, owner: Statement | undefined): string {
  if (owner?.host === host) return claim.explanation;
  const since = claim.migration ? `, by its record of ${time(claim.migration.recordTime)}` : '';
  const word = `${host} said on ${time(saidTime)}${since}: ${claim.explanation}`;
  if (!owner) return `${word} ${claim.ownerHost} was not asked.`;
  if (owner.problem) return `${word} ${claim.ownerHost} does not answer now.`;
  if (!owner.claim) return `${word} But ${claim.ownerHost} does not know it.`;
  return agreesWith(owner) ? word : `${word} But ${claim.ownerHost} does not say so.`;
}

function toFind(ownerHost: string, silent: boolean): string {
  return silent
    ? `Bring the agent of ${ownerHost} back and ask again: it has the domain, or has sent it on.`
    : `Find out on ${ownerHost} what became of it there, before anything is started.`;
}

function inDoubt(doubt: Said, statements: readonly Statement[]): Verdict {
  const { claim } = doubt;
  const peer = statements.find(({ host }) => host === claim.migration?.peerHost);
  const peerHost = claim.migration?.peerHost ?? 'the other host';
  const answer = peer?.claim
    ? ` ${peerHost} answers: ${peer.claim.explanation}`
    : peer?.problem
      ? ` ${peerHost} does not answer now.`
      : peer
        ? ` ${peerHost} does not know the domain.`
        : '';
  const resolve = `\`drover resolve ${claim.migration?.migrationId}\` on ${doubt.host}`;
  return {
    certainty: 'IN_DOUBT',
    ownerHost: undefined,
    rank: claim.rank,
    state: undefined,
    since: claim.migration?.recordTime,
    migrationId: claim.migration?.migrationId,
    explanation: `${claim.explanation}${answer}`,
    toSettle: peer?.claim
      ? 'The two agents settle it themselves in a moment; ask again.'
      : `An answer of the agent of ${peerHost}; if that never comes back: ${resolve}.`,
    contradictions: [],
  };
}

function unknown(said: readonly Said[]): Verdict {
  return {
    certainty: 'UNKNOWN',
    ownerHost: undefined,
    rank: said[0]?.claim.rank ?? { epoch: 0, generation: 0 },
    state: undefined,
    since: undefined,
    migrationId: undefined,
    explanation: said.map(({ host, claim }) => `${host}: ${claim.explanation}`).join(' '),
    toSettle: 'Read the journals with `drover journal show` on these hosts.',
    contradictions: [],
  };
}

function contradictionsOf(best: Named, statements: readonly Statement[]): Contradiction[] {
  const { ownerHost, rank } = best.claim;
  return statements.flatMap(({ host, claim }) => {
    if (host === best.host || !claim) return [];
    const own = rankText(claim.rank);
    const newest = rankText(rank);
    if (claim.ownerHost === host && host !== ownerHost) {
      const runs = claim.state === 'RUNNING' ? ', and runs it' : '';
      const older = `by the older copy ${own}; ${ownerHost} has ${newest}`;
      return [{ host, explanation: `${host} says that it is its own${runs}, ${older}.` }];
    }
    if (claim.certainty !== 'CERTAIN') {
      // One in doubt waits for just this word. A state that cannot be relied on is told of.
      return claim.certainty === 'UNKNOWN' ? [{ host, explanation: claim.explanation }] : [];
    }
    if (host === ownerHost && claim.ownerHost === host) {
      if (!outranks(rank, claim.rank)) return [];
      const what = `${host} has ${own}, and ${best.host} knows of ${newest}`;
      return [{ host, explanation: `${what}: its state may be an old copy.` }];
    }
    const equal = !outranks(rank, claim.rank);
    if ((equal && claim.ownerHost !== ownerHost) || host === ownerHost) {
      const what = `${host} says that it is ${claim.ownerHost}'s (${own}).`;
      return [{ host, explanation: what }];
    }
    return [];
  });
}

/** The hosts that may know more of a domain than the one that makes the claim. */
export function nextHosts(claim: Claim, host: string): string[] {
  const { ownerHost, migration } = claim;
  const asked = new Set<string>();
  if (ownerHost !== undefined && ownerHost !== host) asked.add(ownerHost);
  if (migration && isLoose(claim, migration)) asked.add(migration.peerHost);
  return [...asked];
}

/** True where the other side of the migration may know more, or something else. */
function isLoose({ certainty, rank }: Claim, { record }: ClaimedMigration): boolean {
  if (certainty !== 'CERTAIN') return true;
  const byPerson = record === 'RECLAIMED' && rank.epoch > 1;
  return byPerson || record === 'SUPERSEDED' || record === 'OWNED' || record === 'RUNNING';
}

function nameIn(said: readonly Said[]): string {
  return said.find(({ claim }) => claim.domainName !== '')?.claim.domainName ?? '';
}

function rankText({ epoch, generation }: Rank): string {
  return `${epoch}.${generation}`;
}

function time(date: Date): string {
  return date.toISOString();
}

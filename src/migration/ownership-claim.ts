import type { DomainInfo, DomainState } from '../domain/manager.js';
import type { Side } from '../util/reasoned-error.js';
import { isComing, isUndecided, outranks, type Rank } from './handover-types.js';
import { readDestination, readSource } from './journal-reading.js';
import type { JournalFile } from './journals.js';

/*
 * What one host has in writing about who owns a domain: its definition, and the journal of its last
 * migration. From its first record on the journal decides.
 */

/** How sure it is who owns a domain. */
export type Certainty = 'CERTAIN' | 'REPORTED' | 'IN_DOUBT' | 'UNKNOWN';

/** What one host says of a domain. */
export interface Claim {
  readonly domainUuid: string;
  readonly domainName: string;
  readonly certainty: Certainty;
  /** Undefined where this host cannot tell. */
  readonly ownerHost: string | undefined;
  /** Of the newest copy that this host knows of. */
  readonly rank: Rank;
  /** What the domain does here; undefined where it is not defined here. */
  readonly state: DomainState | undefined;
  /** The migration that the claim follows from; undefined where it follows from none. */
  readonly migration: ClaimedMigration | undefined;
  /** In one sentence. */
  readonly explanation: string;
}

/** The migration that a claim follows from. */
export interface ClaimedMigration {
  readonly migrationId: string;
  readonly side: Side;
  readonly peerHost: string;
  readonly record: string;
  readonly recordTime: Date;
}

/** What a claim is made of. */
export interface ClaimSources {
  /** The host that makes it. */
  readonly host: string;
  /** What it shows of the domain; undefined where that is not defined here. */
  readonly info: DomainInfo | undefined;
  /** The journals of the domain here. */
  readonly journals: readonly JournalFile[];
  /**
   * Whether a migration is undecided for the agent that lives now: what it has heard itself since
   * its start counts as well as what it has written. Undefined for one that has ended.
   */
  readonly undecided: (migrationId: string, side: Side) => boolean | undefined;
  /** Why nothing that is written here can be relied on. */
  readonly quarantine?: string | undefined;
}

/** What a journal makes of its domain. */
type Verdict = Pick<Claim, 'certainty' | 'ownerHost' | 'rank' | 'explanation'>;

interface Judged extends Verdict {
  readonly migration: ClaimedMigration;
  /** True where the definition of the domain says the same, or something newer. */
  readonly settled: boolean;
}

const SILENT_SINCE_START = 'which has not said since the start of the agent that it keeps off it';

/** What this host says of a domain; undefined where it knows nothing of it. */
export function claimOf(sources: ClaimSources): Claim | undefined {
  const { info, journals, quarantine } = sources;
  const header = journals.find((journal) => journal.header)?.header;
  const domainUuid = info?.spec.uuid ?? journals[0]?.domainUuid;
  if (domainUuid === undefined) return undefined;
  const domainName = info?.spec.name ?? header?.domainName ?? '';
  const known = { domainUuid, domainName, state: info?.state };
  const unreadable = journals.find(({ health }) => health !== 'sound');
  if (quarantine !== undefined || unreadable) {
    const problem = quarantine ?? `The journal ${unreadable?.path} is ${unreadable?.problem}.`;
    const { epoch, generation } = info ?? { epoch: 0, generation: 0 };
    const none = { ownerHost: undefined, rank: { epoch, generation }, migration: undefined };
    return { ...known, certainty: 'UNKNOWN', ...none, explanation: problem };
  }
  const judged = decisive(journals, sources);
  if (judged && (!info || !judged.settled || tellsMore(judged, info))) {
    const { settled, ...claim } = judged;
    return { ...known, ...claim };
  }
  return info && { ...known, ...ofDefinition(info, sources.host), migration: undefined };
}

/** True where a journal tells of something newer than a definition, or how that came about. */
function tellsMore({ rank, ownerHost }: Judged, info: DomainInfo): boolean {
  return outranks(rank, info) || (ownerHost === info.ownerHost && !outranks(info, rank));
}

/** What the journal says that counts: an open doubt of the newest copy, else the last migration. */
function decisive(journals: readonly JournalFile[], sources: ClaimSources): Judged | undefined {
  const begun = journals
    .filter(({ header, entries }) => header && entries.length > 0)
    .sort((one, other) => compareJournals(one, other))
    .map((journal) => judge(journal, sources))
    .filter((judged) => judged !== undefined);
  // Of one that was to come and did not, the rank is only its source's word: it tells something of
  // a domain that this host knows nothing else of.
  const proven = begun.filter(({ migration }) => !hasNotCome(migration));
  const livesHere = sources.info?.ownerHost === sources.host;
  const last = proven.at(-1) ?? (livesHere ? undefined : begun.at(-1));
  const doubt = begun.findLast(({ certainty }) => certainty === 'IN_DOUBT');
  return doubt && !(last && outranks(last.rank, doubt.rank)) ? doubt : last;
}

function hasNotCome({ side, record }: ClaimedMigration): boolean {
  return side === 'destination' && record === 'ABORTED';
}

/** Older ones first. */
function compareJournals({ header: one }: JournalFile, { header: other }: JournalFile): number {
  if (!one || !other) return 0;
  if (outranks(one, other)) return 1;
  if (outranks(other, one)) return -1;
  return one.createTime < other.createTime ? -1 : 1;
}

function judge(journal: JournalFile, sources: ClaimSources): Judged | undefined {
  const { header, entries, side, migrationId } = journal;
  if (!header) return undefined;
  const undecided = sources.undecided(migrationId, side);
  const peerHost = side === 'source' ? header.destinationHost : header.sourceHost;
  const read = { header, entries };
  const { record, ...verdict } =
    side === 'source'
      ? judgeSource(readSource(read), sources.host, peerHost, undecided)
      : judgeDestination(readDestination(read), sources.host, peerHost, undecided);
  const last = entries.findLast((entry) => entry.record === record) ?? entries.at(-1);
  const recordTime = new Date(last?.at ?? header.createTime);
  const migration = { migrationId, side, peerHost, record, recordTime };
  return { ...verdict, migration };
}

function judgeSource(
  { record, rank }: ReturnType<typeof readSource>,
  host: string,
  peer: string,
  undecided = record === 'COMMITTED',
): Verdict & { readonly record: string; readonly settled: boolean } {
  const moved = { epoch: rank.epoch, generation: rank.generation + 1 };
  if (record === 'DONE') {
    const explanation = `${host} gave it to ${peer}, which took it.`;
    return { record, ...certain(peer, moved, explanation), settled: true };
  }
  if (record === 'SUPERSEDED') {
    const explanation = `A person gave it to ${peer}; ${host} has an old copy.`;
    return { record, ...certain(peer, rank, explanation), settled: false };
  }
  if (undecided) {
    const explanation = `${undecidedAt(record, host, peer)}; ${host} does not start it.`;
    return { record, ...doubted(rank, explanation), settled: false };
  }
  const explanation = isUndecided(record)
    ? `It is ${host}'s until that gives it up to ${peer}.`
    : record === 'RECLAIMED'
      ? `It is ${host}'s: ${peer} refused it, or a person has taken it back from there.`
      : `It is ${host}'s: the migration to ${peer} came to nothing.`;
  return { record, ...certain(host, rank, explanation), settled: !isUndecided(record) };
}

function undecidedAt(record: string, host: string, peer: string): string {
  const silent = `${peer}, which has not said whether it took it`;
  if (record === 'COMMITTED') return `${host} gave it up to ${silent}`;
  if (record !== 'RECLAIMED') return `${host} booted again while it was moving to ${silent}`;
  return `${host} took it back by a person's word from ${peer}, ${SILENT_SINCE_START}`;
}

function judgeDestination(
  { record, rank, confirmed }: ReturnType<typeof readDestination>,
  host: string,
  peer: string,
  undecided = !confirmed,
): Verdict & { readonly record: string; readonly settled: boolean } {
  const atSource = { epoch: rank.epoch, generation: rank.generation - 1 };
  if (isComing(record)) {
    const explanation = `It is on its way from ${peer} to ${host}, and still ${peer}'s.`;
    return { record, ...certain(peer, atSource, explanation), settled: false };
  }
  if (record === 'ABORTED') {
    const explanation = `It was to come from ${peer} to ${host}, and did not.`;
    return { record, ...certain(peer, atSource, explanation), settled: true };
  }
  if (record === 'SUPERSEDED') {
    const explanation = `A person gave it to ${peer}; ${host} has an old copy.`;
    return { record, ...certain(peer, rank, explanation), settled: false };
  }
  if (undecided && record !== 'SOURCE_GONE') {
    const explanation = `${host} took it from ${peer}, ${SILENT_SINCE_START}.`;
    return { record, ...doubted(rank, explanation), settled: false };
  }
  const explanation = `${host} took it from ${peer}.`;
  return { record, ...certain(host, rank, explanation), settled: record === 'SOURCE_GONE' };
}

function ofDefinition(info: DomainInfo, host: string): Verdict {
  const { ownerHost, epoch, generation } = info;
  const explanation =
    ownerHost === host ? `It is ${host}'s.` : `It moved from ${host} to ${ownerHost}.`;
  return certain(ownerHost, { epoch, generation }, explanation);
}

function certain(ownerHost: string, rank: Rank, explanation: string): Verdict {
  return { certainty: 'CERTAIN', ownerHost, rank: plain(rank), explanation };
}

function doubted(rank: Rank, explanation: string): Verdict {
  return { certainty: 'IN_DOUBT', ownerHost: undefined, rank: plain(rank), explanation };
}

function plain({ epoch, generation }: Rank): Rank {
  return { epoch, generation };
}

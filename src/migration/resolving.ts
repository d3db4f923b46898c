import type { WaitOptions } from '../domain/types.js';
import type { Clock } from '../util/clock.js';
import { withTimeout } from '../util/linked-signal.js';
import type { Log } from '../util/log.js';
import { type Discarded, describeDiscarded } from './discarding.js';
import { asReasoned, MigrationError } from './errors.js';
import type { Rank } from './handover-types.js';
import { isUndecided } from './handover-types.js';
import type { ReadJournal } from './journal-reading.js';
import type { Migration } from './migration.js';
import type { PeerState } from './peer.js';

/** What a person decides: that this host has the guest, or that the other one has it. */
export type Resolve = 'reclaim' | 'relinquish';

/** Asks to decide a migration in doubt. */
export interface ResolveRequest {
  readonly migrationId: string;
  readonly action: Resolve;
  /** As the caller typed it; empty where it did not. */
  readonly confirmDomainName: string;
  /** How the caller knows, at most 500 characters. */
  readonly note: string;
  /** Role and name. */
  readonly caller: string;
}

/** What proved that the other host cannot run the guest. */
export type Evidence = 'CONFIRMED_NAME' | 'FENCE_COMMAND';

/** What was decided. */
export interface Resolution {
  readonly migration: Migration;
  /** The record in this side's journal now, and the rank of the copy here. */
  readonly record: string;
  readonly rank: Rank;
  readonly evidence: Evidence;
  readonly discarded: readonly Discarded[];
  readonly ownerHost: string;
  /** What the other side said last, or why it said nothing. */
  readonly peerAnswer: string;
}

/** What callers may ask about migrations in doubt. */
export interface ResolvePort {
  /**
   * @throws ReasonedError `MIGRATION_NOT_FOUND`; `NOTHING_TO_RESOLVE` where it is not in doubt
   *   here, or the other side answers; `FENCE_UNPROVEN`; `REQUEST_INVALID` for another name than
   *   the domain's; `JOURNAL_FAILED`; `DOMAIN_BUSY` while another call resolves it
   */
  resolve(request: ResolveRequest, options: WaitOptions): Promise<Resolution>;
}

/** One half of a migration that a person may have to decide. */
export interface Resolvable {
  readonly migration: Migration;
  readonly journal: ReadJournal;
  /** What the journal says, for the peer. */
  readonly state: PeerState;
  /** True while only the other side, or a person, knows who has the guest. */
  readonly undecided: boolean;
  /** Asks the other side what its journal says. */
  query(options: WaitOptions): Promise<PeerState>;
  /** True where nobody else is needed once the other side has said this. */
  settledBy(answer: PeerState): boolean;
  /**
   * Writes RESOLVED with these details, then decides. Resolves with false where it was not in doubt
   * any more, and nothing was decided.
   */
  resolve(by: Resolve, audit: object): Promise<boolean>;
}

/** Makes sure that a host runs nothing any more. Rejects where that is not certain. */
export type Fence = (
  target: {
    readonly peerHost: string;
    readonly migrationId: string;
    readonly domainName: string;
    readonly domainUuid: string;
  },
  options: WaitOptions,
) => Promise<void>;

/** What resolving needs of the agent. */
export interface ResolverTools {
  readonly host: string;
  readonly find: (migrationId: string) => Resolvable | undefined;
  /** @throws ReasonedError `MIGRATION_NOT_FOUND` */
  readonly get: (migrationId: string) => Migration;
  /** The configured command; undefined where there is none. */
  readonly fence: Fence | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

const ASK_LIMIT_MS = 5_000;
const NOTE_LIMIT = 500;

/** Decides migrations in doubt by the word of a person. */
export class Resolver implements ResolvePort {
  readonly #tools: ResolverTools;
  readonly #busy = new Set<string>();

  constructor(tools: ResolverTools) {
    this.#tools = tools;
  }

  async resolve(request: ResolveRequest, options: WaitOptions): Promise<Resolution> {
    const { migrationId } = request;
    if (this.#busy.has(migrationId)) {
      throw new MigrationError(
        'DOMAIN_BUSY',
        `Migration ${migrationId} is being resolved already.`,
      );
    }
    this.#busy.add(migrationId);
    try {
      return await this.#resolve(request, options);
    } finally {
      this.#busy.delete(migrationId);
    }
  }

  async #resolve(request: ResolveRequest, options: WaitOptions): Promise<Resolution> {
    const { action, migrationId, note, caller } = request;
    const { log, host } = this.#tools;
    const half = this.#tools.find(migrationId);
    if (!half?.undecided) throw decided(half?.migration ?? this.#tools.get(migrationId), half);
    checkWords(request, half, this.#tools.fence !== undefined);
    const { peerAnswer, peerAskedTime } = await this.#askPeer(half, options);
    const evidence = await this.#prove(request, half, options);
    const peerHost = peerOf(half);
    const discarded = describeDiscarded(action, half.journal);
    const audit = { action, caller, evidence, note, peerAnswer, peerAskedTime };
    if (!(await half.resolve(action, { ...audit, discarded: discarded.map(({ what }) => what) }))) {
      throw decided(half.migration, half);
    }
    const { record, rank } = half.state;
    log.warn(
      { migration_id: migrationId, ...audit, record, ...rank, discarded },
      'a person has resolved a migration in doubt',
    );
    const ownerHost = action === 'reclaim' ? host : peerHost;
    const { migration } = half;
    return { migration, record, rank, evidence, discarded, ownerHost, peerAnswer };
  }

  /** @throws MigrationError `NOTHING_TO_RESOLVE` where the answer settles it */
  async #askPeer(half: Resolvable, { signal }: WaitOptions) {
    const peerHost = peerOf(half);
    const peerAskedTime = this.#tools.clock.date().toISOString();
    const silent = () =>
      new MigrationError('PEER_UNREACHABLE', `The agent of ${peerHost} did not answer in time.`);
    using limit = withTimeout(signal, ASK_LIMIT_MS, silent);
    try {
      const answer = await half.query({ signal: limit.signal });
      const { record, rank, journalId } = answer;
      const said = `${peerHost} says ${record} (${rank.epoch}.${rank.generation})`;
      if (isKnown(half, journalId) && half.settledBy(answer)) {
        throw new MigrationError('NOTHING_TO_RESOLVE', `${said}: the two agents settle it now.`, {
          facts: {
            peer_host: peerHost,
            peer_record: record,
            peer_epoch: rank.epoch,
            peer_generation: rank.generation,
          },
        });
      }
      return { peerAnswer: `${said}, which settles nothing.`, peerAskedTime };
    } catch (error) {
      const { reason, message } = asReasoned(error);
      if (reason === 'NOTHING_TO_RESOLVE') throw error;
      signal.throwIfAborted();
      return { peerAnswer: `${peerHost} does not answer: ${message}`, peerAskedTime };
    }
  }

  async #prove(
    { action, confirmDomainName }: ResolveRequest,
    half: Resolvable,
    options: WaitOptions,
  ): Promise<Evidence> {
    const { fence, log } = this.#tools;
    if (confirmDomainName !== '' || action === 'relinquish' || !fence) return 'CONFIRMED_NAME';
    const { migrationId, domainName, domainUuid } = half.migration;
    const peerHost = peerOf(half);
    log.warn({ migration_id: migrationId, peer: peerHost }, 'running the fence command');
    try {
      await fence({ peerHost, migrationId, domainName, domainUuid }, options);
      return 'FENCE_COMMAND';
    } catch (cause) {
      options.signal.throwIfAborted();
      const why = cause instanceof Error ? cause.message : String(cause);
      log.error({ err: cause, migration_id: migrationId }, 'the fence command has failed');
      throw new MigrationError(
        'FENCE_UNPROVEN',
        `The fence command did not prove that ${peerHost} is fenced: ${why}`,
        { cause, facts: { peer_host: peerHost }, hint: bothWays(peerHost, domainName) },
      );
    }
  }
}

/** @throws MigrationError `REQUEST_INVALID`, `FENCE_UNPROVEN` */
function checkWords(
  { action, confirmDomainName, note }: ResolveRequest,
  half: Resolvable,
  hasFence: boolean,
): void {
  if (note.length > NOTE_LIMIT) {
    throw new MigrationError('REQUEST_INVALID', `note is longer than ${NOTE_LIMIT} characters.`);
  }
  const { domainName } = half.migration;
  if (confirmDomainName === domainName) return;
  if (confirmDomainName !== '') {
    const message = `"${confirmDomainName.slice(0, 64)}" is not the name of the domain.`;
    const hint = 'Type the exact name of the domain, if it is the one you mean.';
    throw new MigrationError('REQUEST_INVALID', message, { hint });
  }
  if (action === 'relinquish') {
    const message = `Relinquishing ${domainName} discards what is here, so its name must be typed.`;
    const hint = `Type it with --confirm ${domainName}.`;
    throw new MigrationError('REQUEST_INVALID', message, { hint });
  }
  if (hasFence) return;
  const peerHost = peerOf(half);
  const message = `Nothing proves that the guest of ${domainName} cannot run on ${peerHost}.`;
  const hint = bothWays(peerHost, domainName);
  throw new MigrationError('FENCE_UNPROVEN', message, { hint });
}

function bothWays(peerHost: string, domainName: string): string {
  const typed = `Power ${peerHost} off and type the domain's name: --confirm ${domainName}`;
  return `${typed}. Or configure a command that fences hosts: fence, in agent.yaml.`;
}

function peerOf({ journal: { header } }: Resolvable): string {
  return header.side === 'source' ? header.destinationHost : header.sourceHost;
}

/** True where an answer comes from the journal that this side knows the other by. */
function isKnown({ journal: { header, entries } }: Resolvable, journalId: string): boolean {
  const known =
    header.side === 'source'
      ? entries.findLast((entry) => 'destinationJournalId' in entry)?.['destinationJournalId']
      : header.details['sourceJournalId'];
  return known === undefined || known === journalId;
}

function decided(
  { migrationId, domainName, state, runningOn }: Migration,
  half: Resolvable | undefined,
): MigrationError {
  const record = half?.state.record;
  const alone = record !== undefined && isUndecided(record as 'STARTED');
  const why = alone
    ? 'the source decides alone: cancel it instead'
    : half?.undecided
      ? `a person has taken it back (${record}), which can be said again and not undone`
      : record === undefined
        ? `it has ended (${state})`
        : `the journal here says ${record}`;
  return new MigrationError(
    'NOTHING_TO_RESOLVE',
    `The migration of ${domainName} is not in doubt here: ${why}.`,
    { facts: { migration_id: migrationId, running_on: runningOn, record: record ?? '' } },
  );
}

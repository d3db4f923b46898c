import type { Written } from '../../../src/migration/handover.js';
import type {
  DestinationState,
  Effect,
  HandoverRecord,
  Rank,
  SourceState,
} from '../../../src/migration/handover-types.js';

/*
 * What the explorer knows of the world: hosts, copies of the domain, and the migrations ("legs")
 * that lead from one copy to the next. Everything is immutable; every part carries a short key, so
 * that a world's key is a concatenation.
 */

/** What QEMU does that holds a copy. `failed`: an incoming one whose stream broke. */
export type Qemu =
  | 'none'
  | 'waiting'
  | 'failed'
  | 'loaded'
  | 'running'
  | 'pre-switchover'
  | 'device'
  | 'completed'
  | 'gone';

/** `rescue`: the agent is dead and the rescue process has its lock. `off`: no power. */
export type Power = 'up' | 'down' | 'rescue' | 'off' | 'lost';

export interface Host {
  readonly power: Power;
  /** Its state directory is not the one that this host wrote, and that has been noticed. */
  readonly quarantined: boolean;
  readonly key: string;
}

export interface Copy {
  readonly qemu: Qemu;
  /** Some process serves the images over NBD. */
  readonly server: boolean;
  /** It is an older process than `qemu`: the RAM is being sent again. */
  readonly twin: boolean;
  /** `behind`: an acknowledged write is missing in these images. */
  readonly images: 'none' | 'behind' | 'whole';
  readonly key: string;
}

/** One side of one migration. */
export interface Half<State> {
  /** What is in its journal; undefined without one. */
  readonly journal: Written | undefined;
  /** What a power loss would leave of it. The same, unless somebody forgot to sync. */
  readonly durable: Written | undefined;
  /** Undefined while no agent lives that knows of it. */
  readonly state: State | undefined;
  readonly todo: readonly Effect[];
  /** What has been sent to this life of the agent, and may arrive at any time, again and again. */
  readonly inbox: number;
  readonly newBoot: boolean;
  /** While a write is under way: the state to which its failure would lead back. */
  readonly before: State | undefined;
  /** Its journal takes no more records in this life of the agent. */
  readonly broken: boolean;
  /** A decision could not be written, and may be in the journal all the same. */
  readonly doubt: boolean;
  readonly key: string;
}

export interface Leg {
  readonly rank: Rank;
  readonly mirror: 'none' | 'active' | 'settled' | 'void';
  readonly source: Half<SourceState>;
  readonly destination: Half<DestinationState>;
  readonly key: string;
}

export interface World {
  readonly hosts: readonly Host[];
  readonly copies: readonly Copy[];
  readonly legs: readonly Leg[];
  readonly link: boolean;
  readonly faults: number;
  /** How often a person has decided. */
  readonly resolves: number;
  /**
   * `told`: a fence was not true, and the two sides have not spoken to each other since. `torn`: two
   * people have chosen differently, each behind a fence, and one of them will lose writes.
   */
  readonly lie: 'none' | 'told' | 'spoken' | 'torn';
  /** The copy that ran last, or an earlier one that a person has chosen since. */
  readonly ran: number;
  /** The copy that the last person has chosen. */
  readonly chosen: number | undefined;
}

/** Which copy lies on which host, and which copies the migrations join. */
export interface Layout {
  readonly hosts: number;
  readonly hostOf: readonly number[];
  readonly legs: readonly { readonly from: number; readonly to: number }[];
}

const WORDS = [
  '',
  ...['none', 'waiting', 'failed', 'loaded', 'running', 'pre-switchover', 'device', 'completed'],
  ...['gone', 'up', 'down', 'rescue', 'off', 'lost', 'behind', 'whole', 'active', 'settled'],
  ...['void', 'told', 'spoken', 'torn'],
];
const RECORDS: readonly (HandoverRecord | 'NONE')[] = [
  ...(['NONE', 'STARTED', 'DST_PREPARED', 'SWITCHING', 'COMMITTED', 'DONE', 'ABORTED'] as const),
  ...([
    'RECLAIMED',
    'SUPERSEDED',
    'PREPARED',
    'LOADED',
    'OWNED',
    'RUNNING',
    'SOURCE_GONE',
  ] as const),
];
const WORD_CODES = new Map(WORDS.map((word, code) => [word, code]));
const RECORD_CODES = new Map(RECORDS.map((record, code) => [record, code]));
const TODO_CODES = new Map<string, number>();

const codeOf = (word: string): number => WORD_CODES.get(word) as number;
const bit = (flag: boolean | undefined): number => (flag ? 1 : 0);
const chars = String.fromCharCode;

function rankedCode(written: Written | undefined): number {
  if (!written) return 0;
  return (RECORD_CODES.get(written.record) as number) | ((written.rank.epoch & 7) << 4);
}

function todoCode(todo: readonly Effect[]): number {
  if (todo.length === 0) return 0;
  const text = todo
    .map((effect) =>
      effect.type === 'write' ? `${effect.record}${effect.rank.epoch}` : effect.type,
    )
    .join();
  const known = TODO_CODES.get(text);
  if (known !== undefined) return known;
  TODO_CODES.set(text, TODO_CODES.size + 1);
  return TODO_CODES.size;
}

type Keyless<T> = Omit<T, 'key'>;

export function hostWith(host: Keyless<Host>): Host {
  return { ...host, key: chars(codeOf(host.power) | (bit(host.quarantined) << 5)) };
}

export function copyWith({ qemu, server, twin, images }: Keyless<Copy>): Copy {
  const code = codeOf(qemu) | (codeOf(images) << 5) | (bit(server) << 10) | (bit(twin) << 11);
  return { qemu, server, twin, images, key: chars(code) };
}

export function halfWith<State extends SourceState | DestinationState>(
  half: Keyless<Half<State>>,
): Half<State> {
  const { journal, durable, state, todo, inbox, newBoot, before, broken, doubt } = half;
  const key = chars(
    (state ? stateCode(state) : 0) | (rankedCode(journal) << 8) | (bit(newBoot) << 15),
    todoCode(todo) | (rankedCode(journal === durable ? undefined : durable) << 9),
    inbox & 0xffff,
    inbox >>> 16,
    (before ? stateCode(before) : 0) | (bit(broken) << 8) | (bit(doubt) << 9),
  );
  return { journal, durable, state, todo, inbox, newBoot, before, broken, doubt, key };
}

/** A number for each state that a reducer can be in. */
export function stateCode(state: SourceState | DestinationState): number {
  return (rankedCode(state) << 1) | bit('held' in state ? state.held : state.confirmed);
}

export function legWith(leg: Keyless<Leg>): Leg {
  const { rank, mirror, source, destination } = leg;
  const key = chars(codeOf(mirror) | (rank.epoch << 5)) + source.key + destination.key;
  return { rank, mirror, source, destination, key };
}

/**
 * Two worlds with the same key have the same future, but for the number of faults that are left:
 * whoever has had fewer can do whatever the other can.
 */
export function keyOf(world: World): string {
  const { hosts, copies, legs, link, resolves, lie, ran, chosen } = world;
  let key = chars(
    bit(link) | (resolves << 4) | (codeOf(lie) << 7) | (ran << 12) | ((chosen ?? 3) << 14),
  );
  for (const host of hosts) key += host.key;
  for (const copy of copies) key += copy.key;
  for (const leg of legs) key += leg.key;
  return key;
}

const NO_LIFE = { state: undefined, before: undefined, broken: false, doubt: false } as const;
const NO_HALF = { ...NO_LIFE, journal: undefined, durable: undefined, inbox: 0 } as const;

export function emptyHalf<State extends SourceState | DestinationState>(): Half<State> {
  return halfWith<State>({ ...NO_HALF, todo: [], newBoot: false });
}

/** The first copy runs, and its migration has just been written down. */
export function firstWorld({ hosts, hostOf, legs }: Layout): World {
  const host = hostWith({ power: 'up', quarantined: false });
  const none = { server: false, twin: false };
  return {
    hosts: Array.from({ length: hosts }, () => host),
    copies: hostOf.map((_, copy) =>
      copyWith(
        copy === 0
          ? { qemu: 'running', images: 'whole', ...none }
          : { qemu: 'none', images: 'none', ...none },
      ),
    ),
    legs: legs.map((_, leg) => {
      const rank = { epoch: 0, generation: leg };
      const made = legWith({ rank, mirror: 'none', source: emptyHalf(), destination: emptyHalf() });
      return leg === 0 ? legWith({ ...made, source: startedHalf(rank) }) : made;
    }),
    link: true,
    faults: 0,
    resolves: 0,
    lie: 'none',
    ran: 0,
    chosen: undefined,
  };
}

/** A source's half whose journal has just been made. */
export function startedHalf(rank: Rank): Half<SourceState> {
  const journal = { record: 'STARTED', rank } as const;
  const state = { ...journal, held: false };
  return halfWith<SourceState>({
    ...NO_HALF,
    journal,
    durable: journal,
    state,
    todo: [],
    newBoot: false,
  });
}

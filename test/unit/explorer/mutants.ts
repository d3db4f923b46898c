import { stepDestination, stepSource } from '../../../src/migration/handover.js';
import type {
  DestinationEvent,
  DestinationState,
  Effect,
  SourceEvent,
  SourceState,
  Step,
} from '../../../src/migration/handover-types.js';
import { isTaken, outranks } from '../../../src/migration/handover-types.js';
import type { InvariantName } from './invariants.js';
import type { Rules } from './moves.js';
import type { ScenarioName } from './scenarios.js';

/** One thing done wrongly, and the invariant that must notice it. */
export interface Mutant {
  readonly name: string;
  readonly scenario: ScenarioName;
  readonly caughtBy: InvariantName;
  /** Whether it shows only from the commit on, and nothing before that has to be explored. */
  readonly late: boolean;
  /** What it does instead of the real thing, and in what smaller world that is found. */
  readonly change: Partial<
    Pick<Rules, 'stepSource' | 'stepDestination' | 'faults' | 'lies' | 'resolves'>
  > & {
    readonly flaws?: readonly string[];
  };
}

type SourceStep = Rules['stepSource'];
type DestinationStep = Rules['stepDestination'];

/** The real reducer, except where `wrong` answers something. */
function source(wrong: (state: SourceState, event: SourceEvent) => Step<SourceState> | undefined): {
  stepSource: SourceStep;
} {
  return { stepSource: (state, event) => wrong(state, event) ?? stepSource(state, event) };
}

function destination(
  wrong: (state: DestinationState, event: DestinationEvent) => Step<DestinationState> | undefined,
): { stepDestination: DestinationStep } {
  return {
    stepDestination: (state, event) => wrong(state, event) ?? stepDestination(state, event),
  };
}

function without<State>({ state, effects }: Step<State>, type: Effect['type']): Step<State> {
  return { state, effects: effects.filter((effect) => effect.type !== type) };
}

const ONE = 'one migration';
const PERSON = 'a person decides';

/** What others do, or what an earlier draft of this did. */
export const MUTANTS: readonly Mutant[] = [
  ...flawed(ONE, [
    ['the destination is started without -S', 'I1', 'starts-without-S'],
    ['the destination is told to run before it has loaded', 'I1', 'cont-before-loaded'],
    ['a lost answer to the commit is taken for a no', 'I1', 'no-answer-is-a-no'],
    ['the guest runs before OWNED is written', 'I1', 'cont-before-owned'],
    ['OWNED is not synced', 'I2', 'owned-is-not-synced'],
    ['COMMITTED is kept in memory', 'I1', 'committed-is-kept-in-memory'],
    [
      'COMMITTED is not synced, and a new boot does not ask',
      'I4',
      'committed-is-not-synced',
      'new-boot-is-not-noticed',
    ],
    ['the source quits as soon as it has completed', 'I5', 'quits-on-completed'],
    ['the error of a mirror is ignored', 'I3', 'mirror-error-is-ignored'],
    [
      'RAM is sent again after the mirrors have settled',
      'I3',
      'retries-after-settling',
      'settled-is-remembered',
    ],
    ['the guest is resumed while COMMITTED is being written', 'I1', 'gate-opens-while-writing'],
    ['that the source has completed is remembered, not read again', 'I1', 'fence-is-not-read'],
    ['the guest runs while its images are exported', 'I8', 'exports-stay-open'],
    ['a QEMU that was lost is answered like one that never ran', 'I2', 'lost-is-refused'],
    ['the rescue process acts on COMMITTED', 'I9', 'rescue-acts-on-committed'],
    ['the tombstone expires before the source is gone', 'I5', 'tombstone-expires-early'],
  ]),
  ...flawed('disks that lie about a flush', [
    ['a new boot does not ask', 'I4', 'new-boot-is-not-noticed'],
  ]),
  ...flawed('state directories from a backup', [
    [
      'a lost journal is not noticed, and what is unknown is refused',
      'I1',
      'restored-is-not-noticed',
      'unknown-is-refused',
    ],
    ['an older journal is not noticed', 'I1', 'restored-is-not-noticed'],
    ['a quarantined host starts domains', 'I7', 'quarantine-is-ignored'],
  ]),
  ...flawed('journals that cannot be written', [
    ['COMMITTED that could not be written is taken for undone', 'I1', 'unwritten-is-undone'],
    ['a commit is refused although ABORTED could not be written', 'I1', 'goes-on-unwritten'],
  ]),
  ...flawed(PERSON, [
    ['RECLAIMED is not synced', 'I4', 'reclaimed-is-not-synced'],
    [
      'messages outlive the life of the agent that they were sent to',
      'I4',
      'messages-outlive-the-receiver',
    ],
  ]),
  {
    name: 'a domain goes on before its first source is gone',
    scenario: 'onward to a third host',
    caughtBy: 'I1',
    late: true,
    change: { flaws: ['onward-before-source-gone'], faults: 0, lies: true },
  },
  {
    name: 'a restarted destination does not ask',
    scenario: PERSON,
    caughtBy: 'I4',
    late: true,
    change: destination((state, event) =>
      event.type === 'restarted' && isTaken(state.record)
        ? { state: { ...state, confirmed: true }, effects: [{ type: 'run-here' }] }
        : undefined,
    ),
  },
  {
    name: 'a person’s word is believed after a restart of the source',
    scenario: PERSON,
    caughtBy: 'I1',
    late: true,
    change: source((state, event) =>
      event.type === 'restarted' && state.record === 'RECLAIMED'
        ? { state: { ...state, held: false }, effects: [{ type: 'run-here' }] }
        : undefined,
    ),
  },
  {
    name: 'a person’s word is believed after a restart of the destination',
    scenario: PERSON,
    caughtBy: 'I1',
    late: true,
    change: destination((state, event) =>
      event.type === 'restarted' && isTaken(state.record) && state.rank.epoch > 0
        ? { state: { ...state, confirmed: true }, effects: [{ type: 'run-here' }] }
        : undefined,
    ),
  },
  {
    name: 'the epoch is not raised',
    scenario: PERSON,
    caughtBy: 'I1',
    late: true,
    change: source((state, event) => {
      if (event.type !== 'resolved') return undefined;
      const { effects, state: after } = stepSource(state, event);
      const { rank } = state;
      const flat = effects.map((effect) =>
        effect.type === 'write' ? { ...effect, rank } : effect,
      );
      return { state: { ...after, rank }, effects: flat };
    }),
  },
  {
    name: 'the destination is superseded without standing down',
    scenario: 'a person decides, wrongly',
    caughtBy: 'I1',
    late: true,
    change: destination((state, event) => without(stepDestination(state, event), 'stand-down')),
  },
  {
    name: 'the source is superseded without standing down',
    scenario: 'a person decides, wrongly',
    caughtBy: 'I1',
    late: true,
    change: source((state, event) => without(stepSource(state, event), 'stand-down')),
  },
  {
    name: 'OWNED is enough for the source to go',
    scenario: ONE,
    caughtBy: 'I5',
    late: false,
    change: source((state, event) =>
      event.type === 'peer' && event.record === 'OWNED' && state.record === 'COMMITTED'
        ? stepSource(state, { type: 'taken' })
        : undefined,
    ),
  },
  {
    name: 'an old OWNED counts more than a refusal',
    scenario: ONE,
    caughtBy: 'I6',
    late: false,
    change: {
      faults: 2,
      ...source((state, event) => {
        if (event.type !== 'peer' || state.record !== 'RECLAIMED') return undefined;
        if (!isTaken(event.record) || !outranks(event.rank, state.rank)) return undefined;
        const after = { ...state, record: 'SUPERSEDED' } as const;
        const write = { type: 'write', record: 'SUPERSEDED', rank: state.rank } as const;
        return { state: after, effects: [{ type: 'stand-down' }, write] };
      }),
    },
  },
  {
    name: 'a source that has lost COMMITTED does not find it again',
    scenario: 'disks that lie about a flush',
    caughtBy: 'I6',
    late: true,
    change: source((state, event) =>
      event.type === 'peer' && event.record === 'OWNED' && state.held
        ? { state, effects: [] }
        : undefined,
    ),
  },
  {
    name: 'an abort takes an owned guest away',
    scenario: 'disks that lie about a flush',
    caughtBy: 'I4',
    late: true,
    change: destination((state, event) => {
      if (event.type !== 'abort' || !isTaken(state.record)) return undefined;
      const write = { type: 'write', record: 'ABORTED', rank: state.rank } as const;
      return { state: { ...state, record: 'ABORTED' }, effects: [write, { type: 'discard' }] };
    }),
  },
  {
    name: 'the destination refuses before ABORTED is written',
    scenario: ONE,
    caughtBy: 'I1',
    late: false,
    change: destination((state, event) => {
      if (event.type !== 'abort' || state.record !== 'LOADED') return undefined;
      const write = { type: 'write', record: 'ABORTED', rank: state.rank } as const;
      return {
        state: { ...state, record: 'ABORTED' },
        effects: [{ type: 'refuse' }, write, { type: 'discard' }],
      };
    }),
  },
  {
    name: 'the source takes back what it has committed, because it was told to fail',
    scenario: ONE,
    caughtBy: 'I1',
    late: false,
    change: source((state, event) =>
      event.type === 'failed' && state.record === 'COMMITTED'
        ? stepSource({ ...state, record: 'SWITCHING' }, event)
        : undefined,
    ),
  },
];

function flawed(
  scenario: ScenarioName,
  rows: readonly (readonly [string, Mutant['caughtBy'], ...string[]])[],
): Mutant[] {
  const late = scenario !== ONE;
  return rows.map(([name, caughtBy, ...flaws]) => {
    return { name, scenario, caughtBy, late, change: { flaws } };
  });
}

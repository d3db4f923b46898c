import { describe, expect, it } from 'vitest';
import type { DomainInfo } from '../../../src/domain/manager.js';
import type { JournalFile } from '../../../src/migration/journal-file.js';
import { type ClaimSources, claimOf } from '../../../src/migration/ownership-claim.js';
import { nextHosts, type Statement, weigh } from '../../../src/migration/ownership-verdict.js';
import type { Side } from '../../../src/util/reasoned-error.js';

const UUID = '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22';

/** What a host shows of the domain. */
function info(ownerHost: string, rank: readonly [number, number], change = {}): DomainInfo {
  const [epoch, generation] = rank;
  return {
    spec: { uuid: UUID, name: 'web' },
    state: 'RUNNING',
    ownerHost,
    epoch,
    generation,
    doubt: undefined,
    ...change,
  } as DomainInfo;
}

/** A journal of a move from alpha to beta, as it is read; `rank` is that of the copy on its side. */
function journal(
  side: Side,
  records: readonly (string | readonly [string, number, number])[],
  change: Partial<JournalFile> & {
    rank?: readonly [number, number];
    from?: string;
    to?: string;
  } = {},
): JournalFile {
  const {
    rank = side === 'source' ? [1, 1] : [1, 2],
    from = 'alpha',
    to = 'beta',
    ...file
  } = change;
  const migrationId = file.migrationId ?? `from-${from}-to-${to}`;
  return {
    path: `${migrationId}.${side}.log`,
    domainUuid: UUID,
    migrationId,
    side,
    header: {
      migrationId,
      side,
      domainUuid: UUID,
      domainName: 'web',
      sourceHost: from,
      destinationHost: to,
      epoch: rank[0],
      generation: rank[1],
      createTime: `2026-01-0${rank[1]}T00:00:00.000Z`,
      details: {},
    } as unknown as NonNullable<JournalFile['header']>,
    entries: records.map((one, i) => {
      const [record, epoch, generation] = typeof one === 'string' ? [one, ...rank] : one;
      const at = `2026-02-01T00:00:0${i}.000Z`;
      return { n: i + 1, record, at, epoch, generation };
    }),
    health: 'sound',
    tail: 'clean',
    problem: undefined,
    ...file,
  };
}

function claim(host: string, sources: Partial<ClaimSources>) {
  return claimOf({ host, info: undefined, journals: [], undecided: () => undefined, ...sources });
}

const CERTAIN_HERE = {
  certainty: 'CERTAIN',
  ownerHost: 'alpha',
  rank: { epoch: 1, generation: 1 },
};

describe('what a host has in writing', () => {
  it('is nothing where it knows nothing', () => {
    expect(claim('alpha', {})).toBeUndefined();
    expect(claim('alpha', { journals: [journal('source', [])] })).toBeUndefined();
  });

  it('is its definition where no migration has begun', () => {
    const here = { info: info('alpha', [1, 1]) };
    expect(claim('alpha', here)).toMatchObject({ ...CERTAIN_HERE, migration: undefined });
    expect(claim('alpha', { ...here, journals: [journal('source', [])] })).toMatchObject(
      CERTAIN_HERE,
    );
    expect(claim('alpha', { info: info('beta', [1, 2]) })).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'beta',
      rank: { epoch: 1, generation: 2 },
    });
  });

  it.each([
    [['STARTED'], 'CERTAIN', 'alpha', [1, 1]],
    [['STARTED', 'DST_PREPARED', 'SWITCHING'], 'CERTAIN', 'alpha', [1, 1]],
    [['STARTED', 'COMMITTED'], 'IN_DOUBT', undefined, [1, 1]],
    [['STARTED', 'COMMITTED', 'IN_DOUBT', 'RESOLVED'], 'IN_DOUBT', undefined, [1, 1]],
    [['STARTED', 'COMMITTED', 'DONE'], 'CERTAIN', 'beta', [1, 2]],
    [['STARTED', 'ABORTED', 'ENDED'], 'CERTAIN', 'alpha', [1, 1]],
    [['STARTED', 'COMMITTED', ['RECLAIMED', 2, 1]], 'CERTAIN', 'alpha', [2, 1]],
    [['STARTED', ['RECLAIMED', 2, 1], ['SUPERSEDED', 2, 1]], 'CERTAIN', 'beta', [2, 1]],
  ] as const)('of a source with %j is %s, %s', (records, certainty, ownerHost, rank) => {
    const [epoch, generation] = rank;
    const sources = { info: info('alpha', [1, 1]), journals: [journal('source', records)] };
    expect(claim('alpha', sources)).toMatchObject({
      certainty,
      ownerHost,
      rank: { epoch, generation },
      migration: { side: 'source', peerHost: 'beta' },
    });
  });

  it.each([
    [['PREPARED'], 'CERTAIN', 'alpha', [1, 1]],
    [['PREPARED', 'LOADED'], 'CERTAIN', 'alpha', [1, 1]],
    [['PREPARED', 'LOADED', 'OWNED'], 'IN_DOUBT', undefined, [1, 2]],
    [['PREPARED', 'OWNED', 'RUNNING'], 'IN_DOUBT', undefined, [1, 2]],
    [['PREPARED', 'OWNED', ['RUNNING', 3, 2]], 'IN_DOUBT', undefined, [3, 2]],
    [['PREPARED', 'OWNED', 'RUNNING', 'SOURCE_GONE'], 'CERTAIN', 'beta', [1, 2]],
    [['PREPARED', 'ABORTED', 'ENDED'], 'CERTAIN', 'alpha', [1, 1]],
    [['PREPARED', 'OWNED', 'SUPERSEDED'], 'CERTAIN', 'alpha', [1, 2]],
  ] as const)('of a destination with %j is %s, %s', (records, certainty, ownerHost, rank) => {
    const [epoch, generation] = rank;
    expect(claim('beta', { journals: [journal('destination', records)] })).toMatchObject({
      domainUuid: UUID,
      domainName: 'web',
      certainty,
      ownerHost,
      rank: { epoch, generation },
      state: undefined,
      migration: { side: 'destination', peerHost: 'alpha' },
    });
  });

  it('tells the record that it follows from, and when that was written', () => {
    const journals = [journal('source', ['STARTED', 'COMMITTED', 'IN_DOUBT'])];
    expect(claim('alpha', { journals })?.migration).toEqual({
      migrationId: 'from-alpha-to-beta',
      side: 'source',
      peerHost: 'beta',
      record: 'COMMITTED',
      recordTime: new Date('2026-02-01T00:00:01.000Z'),
    });
  });

  it('counts what the living agent has heard as well', () => {
    const taken = [journal('destination', ['PREPARED', 'OWNED', 'RUNNING'])];
    expect(claim('beta', { journals: taken, undecided: () => false })).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'beta',
    });
    const held = [journal('source', ['STARTED', 'DST_PREPARED'])];
    expect(claim('alpha', { journals: held, undecided: () => true })).toMatchObject({
      certainty: 'IN_DOUBT',
      explanation: expect.stringMatching(/booted again/),
    });
  });

  it('is unknown where a journal is damaged, or the state is of elsewhere', () => {
    const here = info('alpha', [1, 1]);
    const damaged = journal('source', ['STARTED'], { health: 'corrupt', problem: 'corrupt: torn' });
    for (const sources of [
      { info: here, journals: [damaged] },
      { info: here, quarantine: 'The state is a copy.' },
    ]) {
      expect(claim('alpha', sources)).toMatchObject({ certainty: 'UNKNOWN', ownerHost: undefined });
    }
    expect(claim('alpha', { journals: [damaged] })?.explanation).toMatch(/corrupt: torn/);
  });

  it('is what the last migration says, in whatever order journals are read', () => {
    const there = journal('source', ['COMMITTED', 'DONE', 'ENDED']);
    const back = journal('destination', ['OWNED', 'RUNNING', 'SOURCE_GONE', 'ENDED'], {
      rank: [1, 3],
      from: 'beta',
      to: 'alpha',
    });
    for (const journals of [
      [there, back],
      [back, there],
    ]) {
      expect(claim('alpha', { info: info('alpha', [1, 3]), journals })).toMatchObject({
        ownerHost: 'alpha',
        rank: { epoch: 1, generation: 3 },
        migration: { migrationId: 'from-beta-to-alpha' },
      });
    }
    // The journal of the way back has been forgotten.
    expect(claim('alpha', { info: info('alpha', [1, 3]), journals: [there] })).toMatchObject({
      ownerHost: 'alpha',
      rank: { epoch: 1, generation: 3 },
      migration: undefined,
    });
  });

  it('stays in doubt where a later migration came to nothing, and not where one succeeded', () => {
    const arrived = journal('destination', ['PREPARED', 'OWNED', 'RUNNING']);
    const onward = { rank: [1, 2], from: 'beta', to: 'gamma' } as const;
    const failed = journal('source', ['STARTED', 'ABORTED', 'ENDED'], onward);
    const here = info('beta', [1, 2]);
    expect(claim('beta', { info: here, journals: [arrived, failed] })).toMatchObject({
      certainty: 'IN_DOUBT',
      migration: { migrationId: 'from-alpha-to-beta' },
    });
    const moved = journal('source', ['STARTED', 'COMMITTED', 'DONE'], onward);
    expect(claim('beta', { info: here, journals: [arrived, moved] })).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'gamma',
      rank: { epoch: 1, generation: 3 },
    });
  });
});

const SAID = new Date('2026-03-01T00:00:00.000Z');

type Claimed = NonNullable<ReturnType<typeof claim>>;

/** What a host said. */
function said(host: string, sources: Partial<ClaimSources>): Statement & { claim: Claimed } {
  const made = claim(host, sources);
  if (!made) throw new Error('There is no claim.');
  return { host, saidTime: SAID, claim: made, problem: undefined };
}

function silent(host: string): Statement {
  const problem = { reason: 'PEER_UNREACHABLE', message: 'It is off.' };
  return { host, saidTime: SAID, claim: undefined, problem: problem as Statement['problem'] };
}

const alphaGaveUp = said('alpha', {
  info: info('alpha', [1, 1], { state: 'IN_DOUBT' }),
  journals: [journal('source', ['STARTED', 'COMMITTED'])],
});
const betaRuns = said('beta', {
  info: info('beta', [1, 2]),
  journals: [journal('destination', ['PREPARED', 'OWNED', 'RUNNING'])],
  undecided: () => false,
});
const alphaReclaimed = said('alpha', {
  info: info('alpha', [2, 1]),
  journals: [journal('source', ['STARTED', 'COMMITTED', ['RECLAIMED', 2, 1]])],
});
const alphaTombstone = said('alpha', { info: info('beta', [1, 2], { state: 'MOVED' }) });

describe('what several hosts have in writing', () => {
  it('is certain where the owner says so itself', () => {
    expect(weigh(alphaTombstone, [betaRuns])).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'beta',
      state: 'RUNNING',
      toSettle: '',
      contradictions: [],
    });
  });

  it('ends the doubt of a source whose destination has spoken, and of a destination whose source was given it', () => {
    expect(weigh(alphaGaveUp, [betaRuns])).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'beta',
      contradictions: [],
    });
    const betaAsks = said('beta', {
      journals: [journal('destination', ['PREPARED', 'OWNED', 'RUNNING'])],
    });
    expect(weigh(betaAsks, [alphaReclaimed])).toMatchObject({
      certainty: 'CERTAIN',
      ownerHost: 'alpha',
      rank: { epoch: 2, generation: 1 },
      contradictions: [],
    });
  });

  it('is in doubt where the destination does not answer, or has not decided', () => {
    expect(weigh(alphaGaveUp, [silent('beta')])).toMatchObject({
      certainty: 'IN_DOUBT',
      ownerHost: undefined,
      since: new Date('2026-02-01T00:00:01.000Z'),
      explanation: expect.stringMatching(/beta does not answer now/),
      toSettle: expect.stringMatching(/beta.*`drover resolve from-alpha-to-beta` on alpha/),
    });
    const loaded = said('beta', { journals: [journal('destination', ['PREPARED', 'LOADED'])] });
    expect(weigh(alphaGaveUp, [loaded])).toMatchObject({
      certainty: 'IN_DOUBT',
      toSettle: expect.stringMatching(/settle it themselves/),
    });
    const forgot = { host: 'beta', saidTime: SAID, claim: undefined, problem: undefined };
    expect(weigh(alphaGaveUp, [forgot])).toMatchObject({
      certainty: 'IN_DOUBT',
      explanation: expect.stringMatching(/beta does not know the domain/),
    });
  });

  it('is reported where the owner does not answer, with who said so and when', () => {
    expect(weigh(alphaTombstone, [silent('beta')])).toMatchObject({
      certainty: 'REPORTED',
      ownerHost: 'beta',
      state: undefined,
      explanation: expect.stringMatching(
        /alpha said on 2026-03-01T00:00:00.000Z.*beta does not answer now/,
      ),
      toSettle: expect.stringMatching(/agent of beta/),
    });
    const betaTombstone = said('beta', { info: info('gamma', [1, 3]) });
    expect(weigh(alphaTombstone, [betaTombstone, silent('gamma')])).toMatchObject({
      certainty: 'REPORTED',
      ownerHost: 'gamma',
      explanation: expect.stringMatching(/beta said on .*gamma does not answer now/),
      contradictions: [],
    });
  });

  it('is unknown where the owner that is named knows nothing, or names another', () => {
    const forgot = { host: 'beta', saidTime: SAID, claim: undefined, problem: undefined };
    expect(weigh(alphaTombstone, [forgot])).toMatchObject({
      certainty: 'UNKNOWN',
      ownerHost: undefined,
      explanation: expect.stringMatching(/But beta does not know it/),
    });
    const betaTombstone = said('beta', { info: info('alpha', [1, 2]) });
    expect(weigh(alphaTombstone, [betaTombstone])).toMatchObject({
      certainty: 'UNKNOWN',
      ownerHost: undefined,
      contradictions: [{ host: 'beta' }],
    });
  });

  it('gives it to the higher rank where two hosts claim it, and names the other', () => {
    for (const [first, second] of [
      [alphaReclaimed, betaRuns],
      [betaRuns, alphaReclaimed],
    ] as const) {
      const { contradictions, ...ownership } = weigh(first, [second]);
      expect(ownership).toMatchObject({ certainty: 'CERTAIN', ownerHost: 'alpha' });
      expect(contradictions).toEqual([
        { host: 'beta', explanation: expect.stringMatching(/runs it, by the older copy 1\.2/) },
      ]);
    }
  });

  it('names an owner whose state is older than what others know of it', () => {
    const old = said('beta', { info: info('beta', [1, 1]) });
    expect(weigh(alphaTombstone, [old]).contradictions).toEqual([
      { host: 'beta', explanation: expect.stringMatching(/beta has 1\.1.*1\.2.*old copy/) },
    ]);
  });
});

describe('the hosts to ask next', () => {
  const next = (statement: typeof alphaGaveUp) => nextHosts(statement.claim, statement.host);
  it('are the owner that a tombstone names and the other side of an open migration', () => {
    expect(next(alphaTombstone)).toEqual(['beta']);
    expect(next(alphaGaveUp)).toEqual(['beta']);
    expect(next(betaRuns)).toEqual(['alpha']);
    expect(next(alphaReclaimed)).toEqual(['beta']);
  });

  it('are none where a host is certain by itself', () => {
    expect(next(said('alpha', { info: info('alpha', [1, 1]) }))).toEqual([]);
    const settled = journal('destination', ['OWNED', 'RUNNING', 'SOURCE_GONE']);
    expect(next(said('beta', { info: info('beta', [1, 2]), journals: [settled] }))).toEqual([]);
  });
});

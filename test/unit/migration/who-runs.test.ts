import { describe, expect, it, vi } from 'vitest';
import type { DomainInfo } from '../../../src/domain/manager.js';
import { MigrationError } from '../../../src/migration/errors.js';
import type { Statement } from '../../../src/migration/ownership-verdict.js';
import { HOPS_LIMIT, type Question, WhoRuns } from '../../../src/migration/who-runs.js';
import { systemClock } from '../../../src/util/clock.js';

const UUID = '0b0f9f0e-6a3f-4a4a-8a5e-2f5a5f0d7c22';

/** Hosts of which each names the owner that is said; `undefined` does not answer, liars say that. */
function mesh(
  owners: Readonly<Record<string, readonly [string, number] | undefined>>,
  liars: Readonly<Record<string, readonly Statement[]>> = {},
) {
  const questions: (Question & { readonly host: string })[] = [];
  const agent = (host: string): WhoRuns =>
    new WhoRuns({
      host,
      domain: async () => {
        const [ownerHost, generation] = owners[host] ?? ['', 0];
        const spec = { uuid: UUID, name: 'web' };
        const state = ownerHost === host ? 'RUNNING' : 'MOVED';
        return { spec, state, ownerHost, epoch: 1, generation, doubt: undefined } as DomainInfo;
      },
      journals: async () => [],
      undecided: () => undefined,
      quarantine: undefined,
      ask: async (peer, question) => {
        questions.push({ ...question, host: peer });
        if (!(peer in owners)) throw new MigrationError('DOMAIN_NOT_FOUND', 'It is not here.');
        if (!owners[peer]) throw new MigrationError('PEER_UNREACHABLE', `${peer} is off.`);
        const lie = liars[peer];
        if (lie) return lie;
        const answer = await agent(peer).whoRuns(question.domainUuid, question.askedHosts);
        return answer.statements;
      },
      clock: systemClock,
    });
  return { ask: (host: string) => agent(host).whoRuns('web', []), questions };
}

describe('asking who runs a domain', () => {
  it('follows tombstones to the owner, and gives each further host less time', async () => {
    const { ask, questions } = mesh({ a: ['b', 2], b: ['c', 3], c: ['c', 3] });
    const answer = await ask('a');
    expect(answer).toMatchObject({ certainty: 'CERTAIN', ownerHost: 'c', state: 'RUNNING' });
    expect(answer.statements.map(({ host }) => host)).toEqual(['a', 'b', 'c']);
    // The owner is asked by whoever was asked first, too.
    expect(questions.map(({ host }) => host)).toEqual(['b', 'c', 'c']);
    const [first, second] = questions;
    expect(first?.limitMs).toBeGreaterThan(second?.limitMs ?? Number.NaN);
    expect(second?.askedHosts).toEqual(expect.arrayContaining(['a', 'b']));
  });

  it('names who said so, and who does not answer', async () => {
    const { ask } = mesh({ a: ['b', 2], b: ['c', 3], c: undefined });
    expect(await ask('a')).toMatchObject({
      certainty: 'REPORTED',
      ownerHost: 'c',
      explanation: expect.stringMatching(/^b said on .*c does not answer now/),
      statements: [{ host: 'a' }, { host: 'b' }, { host: 'c', problem: { message: 'c is off.' } }],
    });
  });

  it.each([
    ['denies it', ['b', 3], { certainty: 'UNKNOWN', ownerHost: undefined }],
    ['is off', undefined, { certainty: 'REPORTED', ownerHost: 'c' }],
    ['has it', ['c', 3], { certainty: 'CERTAIN', ownerHost: 'c' }],
  ] as const)(
    'is certain by no word that another host passes on as that of the owner, who %s',
    async (_what, truth, expected) => {
      const honest = mesh({ a: ['b', 2], b: ['c', 3], c: ['c', 3] });
      const { statements } = await honest.ask('b');
      const { ask } = mesh({ a: ['b', 2], b: ['c', 3], c: truth }, { b: statements });
      expect(await ask('a')).toMatchObject(expected);
    },
  );

  it('does not go round in a circle', async () => {
    const { ask, questions } = mesh({ a: ['b', 2], b: ['c', 2], c: ['a', 2] });
    const answer = await ask('a');
    expect(questions).toHaveLength(2);
    expect(answer).toMatchObject({ certainty: 'UNKNOWN', ownerHost: undefined });
    expect(answer.contradictions.map(({ host }) => host)).toEqual(['b', 'c']);
  });

  it('tells a host that knows nothing from one that does not answer', async () => {
    const { ask } = mesh({ a: ['b', 2] });
    expect(await ask('a')).toMatchObject({
      certainty: 'UNKNOWN',
      statements: [{ host: 'a' }, { host: 'b', claim: undefined, problem: undefined }],
    });
  });

  it('ends after eight hosts', async () => {
    const names = Array.from({ length: 12 }, (_, i) => `h${i}`);
    const owners = names.map((name, i) => [name, [names[i + 1] ?? name, i + 2]] as const);
    const { ask, questions } = mesh(Object.fromEntries(owners));
    const answer = await ask('h0');
    expect(questions).toHaveLength(HOPS_LIMIT);
    expect(answer).toMatchObject({ certainty: 'REPORTED', ownerHost: `h${HOPS_LIMIT + 1}` });
    expect(questions.every(({ limitMs }) => limitMs >= 1_000)).toBe(true);
  });

  it('refuses a question that has gone too far, and one about a domain that nobody knows', async () => {
    const tools = {
      host: 'a',
      domain: vi.fn().mockRejectedValue(new MigrationError('DOMAIN_NOT_FOUND', 'No.')),
      journals: async () => [],
      undecided: () => undefined,
      quarantine: undefined,
      ask: vi.fn(),
      clock: systemClock,
    };
    const far = Array.from({ length: HOPS_LIMIT + 1 }, (_, i) => `h${i}`);
    await expect(new WhoRuns(tools).whoRuns('web', far)).rejects.toMatchObject({
      reason: 'REQUEST_INVALID',
    });
    await expect(new WhoRuns(tools).whoRuns('web', [])).rejects.toMatchObject({
      reason: 'DOMAIN_NOT_FOUND',
    });
    tools.domain.mockRejectedValue(new MigrationError('INTERNAL', 'Broken.'));
    await expect(new WhoRuns(tools).whoRuns('web', [])).rejects.toMatchObject({
      reason: 'INTERNAL',
    });
    expect(tools.ask).not.toHaveBeenCalled();
  });

  it('answers only so many questions at once', async () => {
    const waits: (() => void)[] = [];
    const whoRuns = new WhoRuns({
      host: 'a',
      domain: () => new Promise((_, reject) => waits.push(() => reject(new Error('over')))),
      journals: async () => [],
      undecided: () => undefined,
      quarantine: undefined,
      ask: async () => [],
      clock: systemClock,
    });
    const open = Array.from({ length: 32 }, () => whoRuns.whoRuns('web', []));
    await expect(whoRuns.whoRuns('web', [])).rejects.toMatchObject({ reason: 'LIMIT_REACHED' });
    for (const end of waits.splice(0)) end();
    await Promise.allSettled(open);
    const again = whoRuns.whoRuns('web', []);
    waits[0]?.();
    await expect(again).rejects.toThrow('over');
  });
});

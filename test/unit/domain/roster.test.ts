import { describe, expect, it } from 'vitest';
import type { HostedDomain } from '../../../src/domain/hosted-domain.js';
import { Refusals } from '../../../src/domain/refusals.js';
import { Roster } from '../../../src/domain/roster.js';
import type { IncomingRequest } from '../../../src/domain/types.js';

const uuid = '00000000-0000-4000-8000-000000000002';

type Rank = readonly [epoch: number, generation: number];

/** What a host that gave a domain away at one rank has against one that comes in. */
function refused([epoch, generation]: Rank, arriving: Rank): boolean {
  const roster = new Roster('beta');
  const known = {
    uuid,
    name: 'web',
    definition: { spec: { uuid, name: 'web' }, epoch, generation },
    ownership: { ownedHere: false },
  };
  roster.add(known as unknown as HostedDomain);
  const refusals = new Refusals();
  const [theirEpoch, theirs] = arriving;
  const request = {
    epoch: theirEpoch,
    generation: theirs,
    launchSpec: { spec: { uuid, name: 'web' } },
  };
  roster.checkArrival(request as unknown as IncomingRequest, refusals);
  return !refusals.empty;
}

describe('a domain that comes back', () => {
  it.each([
    [[1, 3], [1, 4], false],
    [[1, 3], [1, 3], true],
    [[1, 3], [1, 2], true],
    [[2, 3], [1, 9], true],
    [[1, 9], [2, 2], false],
  ] as const)('known here at %j and arriving at %j: refused %s', (known, arriving, answer) => {
    expect(refused(known, arriving)).toBe(answer);
  });
});

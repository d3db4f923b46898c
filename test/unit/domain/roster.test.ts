import { describe, expect, it } from 'vitest';
import type { HostedDomain } from '../../../src/domain/hosted-domain.js';
import { Refusals } from '../../../src/domain/refusals.js';
import { Roster } from '../../../src/domain/roster.js';
import type { IncomingRequest } from '../../../src/domain/types.js';

const uuid = '00000000-0000-4000-8000-000000000002';

/** What a host that gave a domain away at `generation` has against one that comes in. */
function refused(generation: number, arriving: number): boolean {
  const roster = new Roster('beta');
  const known = {
    uuid,
    name: 'web',
    definition: { spec: { uuid, name: 'web' }, generation },
    ownership: { ownedHere: false },
  };
  roster.add(known as unknown as HostedDomain);
  const refusals = new Refusals();
  const request = { generation: arriving, launchSpec: { spec: { uuid, name: 'web' } } };
  roster.checkArrival(request as unknown as IncomingRequest, refusals);
  return !refusals.empty;
}

describe('a domain that comes back', () => {
  it.each([
    [3, 4, false],
    [3, 3, true],
    [3, 2, true],
  ])('known here at generation %i and arriving at %i: refused %s', (known, arriving, answer) => {
    expect(refused(known, arriving)).toBe(answer);
  });
});

import { describe, expect, it } from 'vitest';
import { renderOwnership } from '../../../src/cli/who-runs.js';
import { Ownership } from '../../../src/gen/drover/v1/ownership.js';

const PLAIN = { width: 100, style: { colors: false, unicode: false } };
const since = new Date('2026-02-01T00:00:01.000Z');

const doubted = Ownership.fromPartial({
  domainName: 'web1',
  certainty: 'CERTAINTY_IN_DOUBT',
  epoch: 1,
  generation: 1,
  since,
  migrationId: '4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11',
  explanation: 'host-a gave it up to host-b. host-b does not answer now.',
  toSettle: 'An answer of host-b.',
  statements: [
    {
      host: 'host-a',
      answered: true,
      known: true,
      certainty: 'CERTAINTY_IN_DOUBT',
      state: 'STATE_IN_DOUBT',
      record: 'COMMITTED',
      side: 'SIDE_SOURCE',
      recordTime: since,
    },
    { host: 'host-b', answered: false, problem: { reason: 'PEER_UNREACHABLE' } },
  ],
});

describe('who has a domain, as people read it', () => {
  it('begins with the answer, and tells why, what settles it, and who said what', () => {
    expect(`\n${renderOwnership(doubted, PLAIN).join('\n')}\n`).toMatchInlineSnapshot(`
      "
      web1 is in doubt.
        why                host-a gave it up to host-b. host-b does not answer now.
        since              2026-02-01T00:00:01.000Z
        epoch, generation  1, 1
        migration          4e9b8f3a-6f39-4b43-9a53-0d3a6f1f5b11
        what settles it    An answer of host-b.

      HOST    SAYS                              DOMAIN THERE  JOURNAL             RECORD OF
      host-a  in doubt                          in doubt      COMMITTED (source)  2026-02-01T00:00:01.000Z
      host-b  does not answer (PEER_UNREACHAB~
      "
    `);
  });

  it.each([
    [
      { certainty: 'CERTAINTY_CERTAIN', ownerHost: 'host-b', state: 'STATE_RUNNING' },
      'web1 runs on host-b: certain.',
    ],
    [
      { certainty: 'CERTAINTY_CERTAIN', ownerHost: 'host-b', state: 'STATE_STOPPED' },
      'web1 is stopped on host-b: certain.',
    ],
    [{ certainty: 'CERTAINTY_REPORTED', ownerHost: 'host-b' }, 'web1 belongs to host-b: reported.'],
    [{ certainty: 'CERTAINTY_UNKNOWN' }, 'It is unknown which host has web1.'],
  ] as const)('says %j in one line', (change, line) => {
    const ownership = Ownership.fromPartial({ domainName: 'web1', ...change });
    expect(renderOwnership(ownership, PLAIN)[0]).toBe(line);
  });

  it('puts contradictions before the statements', () => {
    const contradictions = [{ host: 'host-b', explanation: 'host-b says that it is its own.' }];
    const lines = renderOwnership(Ownership.fromPartial({ ...doubted, contradictions }), PLAIN);
    expect(lines).toContain('  contradiction: host-b says that it is its own.');
  });
});

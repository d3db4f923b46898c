import type { Ownership, OwnershipStatement } from '../gen/drover/v1/ownership.js';
import type { AddCommand } from './command.js';
import { EXIT, type ExitCode } from './exit-codes.js';
import { shortName } from './figures.js';
import { type Page, present } from './session.js';
import { paint } from './style.js';
import { renderPairs, renderTable } from './table.js';

const HELP = `
The agent answers out of what it has in writing, and asks the hosts that this
names. Any host that has ever had the domain can be asked. It says:
  certain   the owner itself has said so just now
  reported  a host that had the domain says who took it; that one is silent
  in doubt  a handover was cut off; the domain is not started on a guess
  unknown   nothing that can be relied on was found

Ends with 0 where there is an owner, and with 5 in doubt or unknown.

Examples:
  $ drover who-runs web1
  $ drover who-runs web1 --json | jq -r .ownership.owner_host`;

/** `drover who-runs`. */
export const addWhoRuns: AddCommand = (program, run) => {
  const command = program
    .command('who-runs')
    .summary('Say which host has a domain, and how that is known')
    .description('Say which host has a domain, and how that is known.')
    .argument('<domain>', 'the name or the UUID')
    .addHelpText('after', HELP);
  command.action((domain: string) =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) => agent.domains.whoRuns({ domain }));
      const ownership = present(answer.ownership, 'ownership');
      session.print(answer, (page) => renderOwnership(ownership, page));
      return exitOf(ownership);
    }),
  );
};

function exitOf({ ownerHost }: Ownership): ExitCode {
  return ownerHost === '' ? EXIT.inDoubt : EXIT.ok;
}

/** Who has the domain, why, and what each host has said. */
export function renderOwnership(ownership: Ownership, page: Page): string[] {
  const { statements, contradictions, migrationId, since, epoch, generation } = ownership;
  const { width, style } = page;
  const lines = [
    headline(ownership, page),
    ...renderPairs([
      ['  why', ownership.explanation],
      ['  since', since?.toISOString() ?? ''],
      ['  epoch, generation', generation > 0 ? `${epoch}, ${generation}` : ''],
      ['  migration', migrationId],
      ['  what settles it', ownership.toSettle],
    ]),
  ];
  for (const { explanation } of contradictions) {
    lines.push(paint(style, 'red', `  contradiction: ${explanation}`));
  }
  const table = renderTable<OwnershipStatement>(
    [
      { title: 'HOST', value: (s) => s.host },
      { title: 'SAYS', value: saysOf, cut: true },
      { title: 'DOMAIN THERE', value: stateOf },
      { title: 'JOURNAL', value: journalOf },
      { title: 'RECORD OF', value: (s) => s.recordTime?.toISOString() ?? '' },
    ],
    statements,
    width,
    style,
  );
  return [...lines, '', ...table];
}

function headline({ domainName, ownerHost, certainty, state }: Ownership, { style }: Page): string {
  switch (certainty) {
    case 'CERTAINTY_CERTAIN': {
      const what = state === 'STATE_RUNNING' ? 'runs on' : `is ${wordOf(state)} on`;
      return paint(style, 'green', `${domainName} ${what} ${ownerHost}: certain.`);
    }
    case 'CERTAINTY_REPORTED':
      return paint(style, 'yellow', `${domainName} belongs to ${ownerHost}: reported.`);
    case 'CERTAINTY_IN_DOUBT':
      return paint(style, 'red', `${domainName} is in doubt.`);
    default:
      return paint(style, 'red', `It is unknown which host has ${domainName}.`);
  }
}

function saysOf({ answered, problem, known, ownerHost, host, certainty }: OwnershipStatement) {
  if (!answered) return `does not answer (${problem?.reason ?? 'no reason given'})`;
  if (!known) return 'does not know the domain';
  if (certainty === 'CERTAINTY_IN_DOUBT') return 'in doubt';
  if (ownerHost === '') return 'unknown';
  return ownerHost === host ? 'it is here' : `it is on ${ownerHost}`;
}

function stateOf({ state }: OwnershipStatement): string {
  return state === 'STATE_UNSPECIFIED' ? '' : wordOf(state);
}

function journalOf({ record, side }: OwnershipStatement): string {
  return record === '' ? '' : `${record} (${shortName(side)})`;
}

function wordOf(state: string): string {
  return shortName(state).replaceAll('_', ' ');
}

import type { Migration } from '../gen/drover/v1/migration.js';
import { formatDuration } from '../util/bytes.js';
import type { AddCommand } from './command.js';
import { elapsedMs, phaseName, shortName } from './figures.js';
import { renderTable } from './table.js';

/** `drover migrations`. */
export const addMigrations: AddCommand = (program, run) => {
  const command = program
    .command('migrations')
    .summary('List the migrations that the agent knows')
    .description('List the migrations that the agent knows, newest first.')
    .argument('[domain]', 'only those of this domain')
    .addHelpText('after', '\nExample:\n  $ drover migrations web1');
  command.action((domain: string | undefined) =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) =>
        agent.migrations.listMigrations({ domain: domain ?? '' }),
      );
      const now = new Date();
      session.print(answer, ({ width, style }) =>
        answer.migrations.length === 0
          ? ['There are no migrations.']
          : [
              ...renderTable(columns(now), answer.migrations, width, style),
              ...answer.migrations.flatMap(doubtOf),
            ],
      );
      return undefined;
    }),
  );
};

const columns = (now: Date) => [
  { title: 'MIGRATION', value: (m: Migration) => m.migrationId },
  { title: 'DOMAIN', value: (m: Migration) => m.domainName, cut: true },
  { title: 'TO', value: (m: Migration) => m.destinationHost, cut: true },
  { title: 'STATE', value: stateOf },
  { title: 'TIME', value: (m: Migration) => formatDuration(elapsedMs(m, now)), right: true },
];

/** Why a migration is in doubt, and what to type next. */
function doubtOf({ state, domainName, failure }: Migration): string[] {
  if (state !== 'STATE_IN_DOUBT') return [];
  const why = failure?.message ?? 'It is not known which host has the guest.';
  return [`${domainName} is in doubt: ${why} See: drover who-runs ${domainName}`];
}

function stateOf(migration: Migration): string {
  const state = shortName(migration.state).replaceAll('_', ' ');
  return migration.state === 'STATE_RUNNING' ? phaseName(migration) || state : state;
}

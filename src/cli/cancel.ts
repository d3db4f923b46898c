import type { Migration } from '../gen/drover/v1/migration.js';
import type { AddCommand } from './command.js';
import { EXIT, type ExitCode } from './exit-codes.js';
import { guestPlace, hasEnded, phaseName } from './figures.js';
import { present } from './session.js';
import { findMigration } from './watching.js';

/** `drover cancel`. */
export const addCancel: AddCommand = (program, run) => {
  const command = program
    .command('cancel')
    .summary('Cancel a migration')
    .description(
      'End a migration; the guest stays on its source. Too late once the handover has begun.',
    )
    .argument('<migration>', 'the id of a migration, or a domain: its newest migration')
    .addHelpText('after', '\nExample:\n  $ drover cancel web1');
  command.action((name: string) =>
    run(command, (session) =>
      session.withAgent(async (agent) => {
        const migrationId = await findMigration(name, agent);
        const answer = await agent.migrations.cancelMigration({ migrationId });
        const migration = present(answer.migration, 'migration');
        const [exitCode, text] = outcomeOf(migration);
        session.print(answer, () => [text]);
        return exitCode;
      }),
    ),
  );
};

/**
 * What a cancellation came to: nothing was cancelled where the guest went, goes, or may have gone
 * over.
 */
function outcomeOf(migration: Migration): [ExitCode, string] {
  const name = migration.domainName;
  const phase = phaseName(migration);
  if (migration.state === 'STATE_SUCCEEDED') {
    return [EXIT.failed, `Too late: ${name} runs on ${migration.destinationHost}.`];
  }
  if (migration.state === 'STATE_IN_DOUBT') {
    return [
      EXIT.inDoubt,
      `Too late: the migration of ${name} is in doubt; see \`drover who-runs ${name}\`.`,
    ];
  }
  if (hasEnded(migration)) {
    return [EXIT.ok, `The migration of ${name} has ended; ${guestPlace(migration)}.`];
  }
  if (phase === 'handover' || phase === 'cleanup') {
    return [EXIT.failed, `Too late: ${name} is being handed over to ${migration.destinationHost}.`];
  }
  return [
    EXIT.ok,
    `The migration of ${name} is being cancelled; it stays on ${migration.sourceHost}.`,
  ];
}

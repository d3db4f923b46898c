import type { AddCommand } from './command.js';
import { findMigration, watchToTheEnd } from './watching.js';

/** `drover watch`. */
export const addWatch: AddCommand = (program, run) => {
  const command = program
    .command('watch')
    .summary('Show the progress of a migration')
    .description(
      'Show the progress of a migration and wait for its end. Exits as `migrate --watch` does.',
    )
    .argument('<migration>', 'the id of a migration, or a domain: its newest migration')
    .addHelpText('after', '\nExamples:\n  $ drover watch web1\n  $ drover watch web1 --json');
  command.action((name: string) =>
    run(command, (session) =>
      session.withAgent(async (agent) =>
        watchToTheEnd(await findMigration(name, agent), agent, session),
      ),
    ),
  );
};

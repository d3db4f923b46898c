import type { AddCommand } from './command.js';

/** `drover delete`. */
export const addDelete: AddCommand = (program, run) => {
  const command = program
    .command('delete')
    .summary('Delete a domain, or its tombstone')
    .description('Delete a stopped domain with its images, or only its tombstone.')
    .argument('<domain>', 'the name or the UUID')
    .option('--tombstone', 'delete only what a migration left here')
    .addHelpText(
      'after',
      '\nExamples:\n  $ drover delete web1\n  $ drover delete web1 --tombstone',
    );
  command.action((domain: string, options: { tombstone?: boolean }) =>
    run(command, async (session) => {
      const tombstone = options.tombstone === true;
      const answer = await session.withAgent((agent) =>
        agent.domains.deleteDomain({ domain, tombstone }),
      );
      session.print(answer, () => [
        tombstone ? `The tombstone of ${domain} is deleted.` : `${domain} is deleted.`,
      ]);
      return undefined;
    }),
  );
};

import type { AddCommand } from './command.js';
import { confirmation } from './domain-view.js';

/** `drover start`. */
export const addStart: AddCommand = (program, run) => {
  const command = program
    .command('start')
    .summary('Start a domain')
    .description('Start QEMU and the guest of a domain.')
    .argument('<domain>', 'the name or the UUID')
    .option('--paused', 'start with the guest paused')
    .addHelpText('after', '\nExample:\n  $ drover start web1');
  command.action((domain: string, options: { paused?: boolean }) =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) =>
        agent.domains.startDomain({ domain, paused: options.paused === true }),
      );
      session.print(answer, () => confirmation(answer.domain));
      return undefined;
    }),
  );
};

import type { AddCommand } from './command.js';
import { renderDomain } from './domain-view.js';
import { present } from './session.js';

/** `drover get`. */
export const addGet: AddCommand = (program, run) => {
  const command = program
    .command('get')
    .summary('Show one domain')
    .description('Show one domain.')
    .argument('<domain>', 'the name or the UUID')
    .addHelpText('after', '\nExample:\n  $ drover get web1');
  command.action((domain: string) =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) => agent.domains.getDomain({ domain }));
      session.print(answer, (page) => renderDomain(present(answer.domain, 'domain'), page));
      return undefined;
    }),
  );
};

import type { AddCommand } from './command.js';
import { confirmation } from './domain-view.js';
import { durationWithin } from './options.js';

const MOST_MS = 600_000;

/** `drover stop`. */
export const addStop: AddCommand = (program, run) => {
  const command = program
    .command('stop')
    .summary('Stop a domain')
    .description('Ask the guest to power off, then end QEMU.')
    .argument('<domain>', 'the name or the UUID')
    .option('--force', 'end QEMU at once; what the guest has not written is lost')
    .option(
      '--time-limit <duration>',
      'how long the guest may take, up to 10m (default: 1m)',
      durationWithin(1, MOST_MS),
    )
    .addHelpText(
      'after',
      '\nExamples:\n  $ drover stop web1 --time-limit 5m\n  $ drover stop web1 --force',
    );
  command.action((domain: string, options: { force?: boolean; timeLimit?: number }) =>
    run(command, async (session) => {
      const request = {
        domain,
        force: options.force === true,
        timeLimitMs: options.timeLimit ?? 0,
      };
      const answer = await session.withAgent((agent) => agent.domains.stopDomain(request));
      session.print(answer, () => confirmation(answer.domain));
      return undefined;
    }),
  );
};

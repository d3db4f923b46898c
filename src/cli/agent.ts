import type { AddCommand } from './command.js';

/** `drover agent`. */
export const addAgent: AddCommand = (program, run) => {
  const command = program
    .command('agent')
    .summary('Run the agent of this host')
    .description('Run the agent of this host until SIGTERM or Ctrl-C. Guests go on without it.')
    .option('--config <file>', 'the configuration, YAML', '/etc/drover/agent.yaml')
    .addHelpText(
      'after',
      `
It logs JSON lines to stderr. DROVER_LOG sets the level: trace, debug, info
(the default), warn, error or silent.

Example:
  $ drover agent --config /etc/drover/agent.yaml`,
    );
  command.action((options: { config: string }) =>
    run(command, async (session) => {
      await session.environment.runAgent({
        configFile: options.config,
        onReady: (agent) =>
          session.print({ agent }, () => [
            `drover agent ${agent.host} is listening on ${agent.address} and ${agent.unix}`,
          ]),
      });
      return undefined;
    }),
  );
};

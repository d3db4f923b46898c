import type { AddCommand } from './command.js';

/** `drover state accept`. */
export const addState: AddCommand = (program, run) => {
  const state = program
    .command('state')
    .summary("Deal with an agent's state while the agent does not run")
    .description("Deal with an agent's state while the agent does not run.");
  const command = state
    .command('accept')
    .summary('Say that a state in quarantine belongs to this host')
    .description(
      'Say that a state in quarantine, and the journals in it, belong where they lie now.',
    )
    .requiredOption('--host <name>', "the host's name, typed to confirm")
    .option('--config <file>', "the agent's configuration, YAML", '/etc/drover/agent.yaml')
    .addHelpText(
      'after',
      `
An agent whose state was written on another machine, or was copied, starts no
guest: the state may be old, and the guests may run elsewhere. Make sure that
no other host runs them, stop the agent, and accept the state. What the
journals say is believed from then on.

Example:
  $ drover state accept --host host-a`,
    );
  command.action(({ host, config }: { host: string; config: string }) =>
    run(command, async (session) => {
      const { acceptState } = await import('../agent/offline.js');
      const accepted = await acceptState(config, host);
      const { stateDirectory, mismatches, journals } = accepted;
      session.print(accepted, () => [
        ...(mismatches.length + journals.length === 0
          ? [`The state in ${stateDirectory} is where it was written; nothing is to accept.`]
          : [`The state in ${stateDirectory} is accepted as that of ${host}.`]),
        ...mismatches.map((mismatch) => `  ${mismatch}`),
        ...journals.map((path) => `  journal ${path}`),
      ]);
      return undefined;
    }),
  );
};

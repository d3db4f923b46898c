import type { AddCommand } from './command.js';

/** `drover rescue`, which agents start and the list of commands does not show. */
export const addRescue: AddCommand = (program, run) => {
  const command = program
    .command('rescue', { hidden: true })
    .summary('Watch the agent of this host')
    .description(
      'Watch the agent of this host, and let a guest run again that would stay paused because ' +
        'the agent died. Every agent starts one; it is not for people.',
    )
    .option('--config <file>', "the agent's configuration, YAML", '/etc/drover/agent.yaml')
    .option('--state <directory>', 'the state directory, instead of that of the configuration')
    .option('--run <directory>', 'the run directory, likewise');
  command.action((options: { config: string; state?: string; run?: string }) =>
    run(command, async (session) => {
      const { interruption, stderr } = session.environment;
      const directories = await findDirectories(options);
      const { runRescue } = await import('../agent/rescue.js');
      const { rescueLog } = await import('../agent/rescue-log.js');
      const log = rescueLog((line) => stderr.write(line));
      await runRescue(directories, log, interruption());
      return undefined;
    }),
  );
};

// An agent names the directories, which spares its rescue process the code that reads YAML.
async function findDirectories(options: { config: string; state?: string; run?: string }) {
  const { state, run } = options;
  if (state !== undefined && run !== undefined) return { state, run };
  const { loadConfig } = await import('../agent/config.js');
  const { directories } = await loadConfig(options.config);
  return { state: state ?? directories.state, run: run ?? directories.run };
}

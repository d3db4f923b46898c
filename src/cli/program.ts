import { type Argument, Command, CommanderError } from 'commander';
import { ReasonedError } from '../util/reasoned-error.js';
import { droverVersion } from '../util/version.js';
import { addAgent } from './agent.js';
import { addAudit } from './audit.js';
import { addCancel } from './cancel.js';
import type { AddCommand, Runner } from './command.js';
import { addCreate } from './create.js';
import { addDelete } from './delete.js';
import { EXIT, exitOfReason } from './exit-codes.js';
import { addGet } from './get.js';
import { addHost } from './host.js';
import { addJournal } from './journal.js';
import { addList } from './list.js';
import { addMigrate } from './migrate.js';
import { addMigrations } from './migrations.js';
import { addPeers } from './peers.js';
import { addPki } from './pki.js';
import { reportOf } from './report.js';
import { addRescue } from './rescue.js';
import { addResolve } from './resolve.js';
import { type CliEnvironment, type GlobalOptions, Session, tellReport } from './session.js';
import { addStart } from './start.js';
import { addState } from './state.js';
import { addStop } from './stop.js';
import { addVersion } from './version.js';
import { addWatch } from './watch.js';
import { addWhoRuns } from './who-runs.js';

const COMMANDS: readonly AddCommand[] = [
  addAgent,
  addCreate,
  addStart,
  addStop,
  addDelete,
  addList,
  addGet,
  addMigrate,
  addMigrations,
  addWatch,
  addCancel,
  addWhoRuns,
  addResolve,
  addPeers,
  addHost,
  addAudit,
  addJournal,
  addState,
  addRescue,
  addPki,
  addVersion,
];

const EPILOGUE = `
Examples:
  $ drover create web1.yaml && drover start web1
  $ drover migrate web1 host-b --watch
  $ drover --agent 10.0.0.1 list

Environment:
  DROVER_AGENT                   as --agent
  DROVER_CERTIFICATE, DROVER_KEY, DROVER_CA
                                 as --certificate, --key and --ca
  NO_COLOR                       no colours

Exit codes:
  0  done
  1  failed; a guest that was to move runs on its source
  2  the command line, a spec or a configuration is wrong
  3  the agent is out of reach or denies access
  4  the migration was cancelled; the guest runs on its source
  5  in doubt: not known which host owns the guest
  6  partly done`;

/** Builds the command line: options that all commands share, and the commands. */
export function buildProgram(environment: CliEnvironment, run: Runner): Command {
  const { stdout, stderr } = environment;
  const program = new Command('drover');
  program
    .description('Moves running QEMU virtual machines, with their local disks, between hosts.')
    .usage('<command> [options]')
    .version(droverVersion(), '--version', 'print the version')
    .option(
      '--agent <address>',
      'the agent to ask: HOST, HOST:PORT or unix:PATH (default: unix:/run/drover/drover.sock)',
    )
    .option(
      '--certificate <file>',
      'your certificate (default: certificate.pem in ~/.config/drover)',
    )
    .option('--key <file>', 'its key (default: key.pem there)')
    .option('--ca <file>', 'the CA of the agents (default: ca.pem there)')
    .option('--json', 'print JSON, one object a line')
    .helpOption('-h, --help', 'show this help')
    .helpCommand('help [command]', 'Show the help of a command')
    .addHelpText('after', EPILOGUE)
    .exitOverride()
    .configureHelp({
      showGlobalOptions: true,
      helpWidth: Math.min(stdout.columns || 80, 100),
      subcommandTerm: (command) =>
        [command.name(), ...command.registeredArguments.map(argumentTerm)].join(' '),
    })
    .configureOutput({
      writeOut: (text) => void stdout.write(text),
      writeErr: (text) => void stderr.write(text),
      // Errors are told below, the same way as all others.
      outputError: () => {},
    });
  for (const add of COMMANDS) add(program, run);
  return program;
}

/**
 * Runs one command line, without the names of node and of the program, and answers the exit code.
 * All errors are told on stderr.
 */
export async function runCli(
  args: readonly string[],
  environment: CliEnvironment,
): Promise<number> {
  let exitCode: number = EXIT.ok;
  const run: Runner = async (command, work) => {
    const session = new Session(environment, command.optsWithGlobals<GlobalOptions>());
    exitCode = (await work(session)) ?? EXIT.ok;
  };
  const program = buildProgram(environment, run);
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (caught) {
    if (caught instanceof CommanderError && caught.exitCode === 0) return EXIT.ok;
    // No command was given, and commander has written the help.
    if (caught instanceof CommanderError && caught.code === 'commander.help') return EXIT.usage;
    const error = caught instanceof CommanderError ? usageError(caught) : caught;
    const report = reportOf(error);
    tellReport(report, environment, args.includes('--json'));
    return exitOfReason(report.reason);
  }
}

function argumentTerm(argument: Argument): string {
  return argument.required ? `<${argument.name()}>` : `[${argument.name()}]`;
}

function usageError(error: CommanderError): ReasonedError {
  return new ReasonedError('REQUEST_INVALID', error.message.replace(/^error: /, ''), {
    hint: 'See `drover --help` and `drover COMMAND --help`.',
  });
}

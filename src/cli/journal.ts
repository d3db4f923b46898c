import { ReasonedError } from '../util/reasoned-error.js';
import type { AddCommand } from './command.js';
import { EXIT } from './exit-codes.js';
import { type Found, journalMessage, renderJournal, renderJournals } from './journal-view.js';
import { readUuid } from './options.js';

const DEFAULT_CONFIG = '/etc/drover/agent.yaml';

interface Options {
  readonly config: string;
  readonly migration?: string;
  readonly all?: boolean;
}

/** `drover journal show`. */
export const addJournal: AddCommand = (program, run) => {
  const journal = program
    .command('journal')
    .summary("Read the agent's journals, also while it does not run")
    .description("Read the agent's journals, also while it does not run.");
  const command = journal
    .command('show')
    .summary('Print journals, or list them')
    .description(
      'Print the journal of a file, of a migration, or all of them; without any of these, list them.',
    )
    .argument('[file]', 'a journal, which may be a copy')
    .option('--migration <id>', 'the journals of this migration', readUuid)
    .option('--all', 'all journals of the host')
    .option('--config <file>', "the agent's configuration, YAML", DEFAULT_CONFIG)
    .addHelpText(
      'after',
      `
Nothing is changed, and the agent is not asked. A record with a star was on
stable storage before anything followed from it. The exit code is 5 where a
journal is corrupt or foreign: what it said last is not known then.

Examples:
  $ drover journal show
  $ drover journal show --migration 01931c2a-0000-7000-8000-000000000001`,
    );
  command.action((file: string | undefined, options: Options) =>
    run(command, async (session) => {
      if (
        [file, options.migration, options.all].filter((chosen) => chosen !== undefined).length > 1
      ) {
        throw new ReasonedError('REQUEST_INVALID', 'Give a file, --migration, or --all.', {
          hint: 'See `drover journal show --help`.',
        });
      }
      const ownConfig = command.getOptionValueSource('config') !== 'default';
      const found =
        file === undefined ? await findAll(options) : await findOne(file, options, ownConfig);
      const whole = file !== undefined || options.migration !== undefined || options.all === true;
      if (found.mismatches.length > 0) {
        session.note(`The state is not where it was written: ${found.mismatches.join('; ')}.`);
      }
      session.print(journalMessage(found), (page) =>
        whole && found.journals.length > 0
          ? found.journals.flatMap((shown, index) => [
              ...(index > 0 ? [''] : []),
              ...renderJournal(shown, found.ruleOf, page),
            ])
          : renderJournals(found, page),
      );
      return found.journals.every(({ health }) => health === 'sound') ? EXIT.ok : EXIT.inDoubt;
    }),
  );
};

async function findAll({ config, migration }: Options): Promise<Found> {
  const { readState, recordRule } = await import('../agent/offline.js');
  const { journals, mismatches } = await readState(config);
  const wanted = journals.filter(
    ({ migrationId }) => migration === undefined || migrationId === migration,
  );
  if (migration !== undefined && wanted.length === 0) {
    throw new ReasonedError('MIGRATION_NOT_FOUND', `There is no journal of ${migration} here.`, {
      hint: 'List the journals with `drover journal show`.',
    });
  }
  return { journals: wanted, mismatches, ruleOf: recordRule };
}

/** A copy can be read on a machine without an agent, where there is no configuration. */
async function findOne(file: string, { config }: Options, ownConfig: boolean): Promise<Found> {
  const { readJournalFile, recordRule } = await import('../agent/offline.js');
  const { existsSync } = await import('node:fs');
  const journal = await readJournalFile(file, ownConfig || existsSync(config) ? config : undefined);
  return { journals: [journal], mismatches: [], ruleOf: recordRule };
}

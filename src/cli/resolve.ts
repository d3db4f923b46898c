import type { ResolveMigrationResponse } from '../gen/drover/v1/migration_service.js';
import { ResolveMigrationRequest_Action as Action } from '../gen/drover/v1/migration_service.js';
import { ReasonedError } from '../util/reasoned-error.js';
import type { AddCommand } from './command.js';
import { EXIT } from './exit-codes.js';
import { findMigration } from './watching.js';

const HELP = `
Ask the agent of the side that you decide for:
  --reclaim     the guest is this host's. Only where the other host is fenced:
                powered off, or cut off for good. WHERE THAT IS NOT TRUE THE
                GUEST RUNS TWICE, AND ITS DISKS DIVERGE.
  --relinquish  the guest is the other host's; here it stays stopped, or is
                stopped now. At a source: only where you see that it runs there.

The other side is asked once more before; where it answers, there is nothing to
resolve. The fence is proven by the agent's fence command, if one is configured,
or by the name of the domain, typed with --confirm. What the decision discards
is told. It goes into the journal and the log with your name.
Read docs/handover.md first.

Examples:
  $ drover who-runs web1
  $ drover resolve web1 --reclaim --confirm web1 --note "host-b is off, #4711"`;

interface Options {
  readonly reclaim?: boolean;
  readonly relinquish?: boolean;
  readonly confirm?: string;
  readonly note?: string;
}

/** `drover resolve`. */
export const addResolve: AddCommand = (program, run) => {
  const command = program
    .command('resolve')
    .summary('Decide a migration in doubt')
    .description(
      'Decide a migration in doubt, where the other host will not come back to say who has the guest.',
    )
    .argument('<migration>', 'the id of a migration, or a domain: its newest migration')
    .option('--reclaim', "the guest is this host's")
    .option('--relinquish', "the guest is the other host's")
    .option('--confirm <name>', 'the exact name of the domain')
    .option('--note <text>', 'how you know, for the journal')
    .addHelpText('after', HELP);
  command.action((name: string, options: Options) =>
    run(command, async (session) => {
      const action = actionOf(options);
      const answer = await session.withAgent(async (agent) => {
        const migrationId = await findMigration(name, agent);
        const { confirm: confirmDomainName = '', note = '' } = options;
        return await agent.migrations.resolveMigration({
          migrationId,
          action,
          confirmDomainName,
          note,
        });
      });
      session.print(answer, () => renderResolution(answer));
      return EXIT.ok;
    }),
  );
};

function actionOf({ reclaim = false, relinquish = false }: Options): Action {
  if (reclaim !== relinquish) return reclaim ? Action.RECLAIM : Action.RELINQUISH;
  throw new ReasonedError('REQUEST_INVALID', 'Give either --reclaim or --relinquish.', {
    hint: 'See `drover resolve --help`.',
  });
}

function renderResolution(answer: ResolveMigrationResponse): string[] {
  const { ownerHost, record, epoch, generation, discarded, peerAnswer, evidence } = answer;
  const proof =
    evidence === 'EVIDENCE_FENCE_COMMAND'
      ? 'by the fence command'
      : "by the domain's name as you typed it";
  return [
    `${answer.migration?.domainName ?? 'The domain'} is ${ownerHost}'s now, ${proof}.`,
    `  the journal says  ${record}, epoch ${epoch}, generation ${generation}`,
    `  the other side    ${peerAnswer}`,
    'Discarded:',
    ...discarded.map(({ what }) => `  - ${what}`),
  ];
}

import { Option } from 'commander';
import { Migration_Transport } from '../gen/drover/v1/migration.js';
import type { AddCommand } from './command.js';
import { durationWithin, numberWithin, readRate, readUuid } from './options.js';
import { present } from './session.js';
import { watchToTheEnd } from './watching.js';

interface MigrateOptions {
  readonly watch?: boolean;
  readonly id?: string;
  readonly downtimeLimit?: number;
  readonly maxBandwidth?: number;
  readonly transport: string;
  readonly gentle?: boolean;
  readonly weight?: number;
}

const MOST_DOWNTIME_MS = 60_000;
const HEAVIEST = 100;

const TRANSPORTS: Readonly<Record<string, Migration_Transport>> = {
  auto: Migration_Transport.AUTO,
  direct: Migration_Transport.DIRECT,
  stream: Migration_Transport.STREAM,
};

/** `drover migrate`. */
export const addMigrate: AddCommand = (program, run) => {
  const command = program
    .command('migrate')
    .summary('Move a running domain to another host')
    .description(
      'Move a running domain to another host, live, with its disks. Ask the agent it runs on.',
    )
    .argument('<domain>', 'the name or the UUID')
    .argument('<host>', 'the destination: the name of a peer, see `drover peers`')
    .option('--watch', 'show the progress and wait for the end')
    .option(
      '--downtime-limit <duration>',
      'the longest pause to plan for, 1ms to 60s (default: 300ms)',
      durationWithin(1, MOST_DOWNTIME_MS),
    )
    .option(
      '--max-bandwidth <rate>',
      'the most that disks and RAM may send together, such as 100MiB/s (default: unlimited)',
      readRate,
    )
    .addOption(
      new Option(
        '--transport <way>',
        'how the bytes travel: from QEMU to QEMU (direct), or through both agents (stream)',
      )
        .choices(['auto', 'direct', 'stream'])
        .default('auto'),
    )
    .option('--gentle', "copy the disks more slowly where the guest's own use of them suffers")
    .option(
      '--weight <number>',
      'its part of the link beside other migrations, 1 to 100 (default: 10)',
      numberWithin(1, HEAVIEST),
    )
    .option('--id <uuid>', 'the id of the migration; asking twice with one id moves once', readUuid)
    .addHelpText(
      'after',
      `
Without --watch it returns as soon as the migration is accepted. Ctrl-C ends
the watching, not the migration.

Examples:
  $ drover migrate web1 host-b --watch
  $ drover migrate web1 host-b --downtime-limit 100ms --max-bandwidth 1GiB/s`,
    );
  command.action((domain: string, host: string, options: MigrateOptions) =>
    run(command, (session) =>
      session.withAgent(async (agent) => {
        const answer = await agent.migrations.startMigration({
          domain,
          destinationHost: host,
          migrationId: options.id ?? '',
          downtimeLimitMs: options.downtimeLimit ?? 0,
          maxBandwidthBytesPerS: options.maxBandwidth ?? 0,
          transport: TRANSPORTS[options.transport] ?? Migration_Transport.AUTO,
          gentle: options.gentle ?? false,
          weight: options.weight ?? 0,
        });
        const { migrationId } = present(answer.migration, 'migration');
        if (options.watch) return watchToTheEnd(migrationId, agent, session);
        session.print(answer, () => [
          `${domain} is on its way to ${host}: migration ${migrationId}.`,
          `Follow it with \`drover watch ${migrationId}\`.`,
        ]);
        return undefined;
      }),
    ),
  );
};

import { InvalidArgumentError } from 'commander';
import { type AuditEvent, AuditEvent_Decision } from '../gen/drover/v1/audit.js';
import type { AgentClient } from '../rpc/client.js';
import { parseDuration } from '../util/bytes.js';
import type { AddCommand } from './command.js';
import { shortName } from './figures.js';
import { renderTable } from './table.js';

const LONGEST_PAGE = 1_000;
const DEFAULT_COUNT = 50;
const MOST = 10_000;

interface Options {
  readonly since?: Date;
  readonly caller?: string;
  readonly action?: string;
  readonly subject?: string;
  readonly denied?: boolean;
  readonly limit: number;
}

/** `drover audit`. */
export const addAudit: AddCommand = (program, run) => {
  const command = program
    .command('audit')
    .summary('List who has done what to the host')
    .description(
      'List who has done what to the host, and who was refused, the newest last. Calls that only read are left out.',
    )
    .option('--since <time>', 'only since a time, or for a duration such as 10m', readSince)
    .option('--caller <role/name>', 'only of this caller')
    .option('--action <name>', 'only this method or event')
    .option(
      '--subject <id>',
      'only about this migration, by its id, or this domain, as the caller gave it',
    )
    .option('--denied', 'only what was refused')
    .option('-n, --limit <count>', `how many, up to ${MOST}`, readCount, DEFAULT_COUNT)
    .addHelpText(
      'after',
      `
The agent keeps the newest few thousand events; older ones are in the files
audit/*.jsonl of its state directory.

Example:
  $ drover audit --denied --since 24h`,
    );
  command.action((options: Options) =>
    run(command, async (session) => {
      const events = await session.withAgent((agent) => list(agent, options));
      session.print({ events }, ({ width, style }) =>
        events.length === 0
          ? ['Nothing is on record.']
          : renderTable(COLUMNS, events.toReversed(), width, style),
      );
      return undefined;
    }),
  );
};

async function list(agent: AgentClient, options: Options): Promise<AuditEvent[]> {
  const events: AuditEvent[] = [];
  let pageToken = '';
  do {
    const answer = await agent.hosts.listAuditEvents({
      pageSize: Math.min(LONGEST_PAGE, options.limit - events.length),
      pageToken,
      caller: options.caller ?? '',
      action: options.action ?? '',
      subject: options.subject ?? '',
      decision: options.denied ? AuditEvent_Decision.DENIED : AuditEvent_Decision.UNSPECIFIED,
      since: options.since,
    });
    events.push(...answer.events);
    pageToken = answer.nextPageToken;
  } while (pageToken !== '' && events.length < options.limit);
  return events;
}

const COLUMNS = [
  { title: 'TIME', value: (e: AuditEvent) => e.time?.toISOString() ?? '' },
  { title: 'CALLER', value: (e: AuditEvent) => e.caller, cut: true },
  { title: 'DECISION', value: (e: AuditEvent) => shortName(e.decision) },
  { title: 'ACTION', value: (e: AuditEvent) => e.action.slice(e.action.lastIndexOf('/') + 1) },
  { title: 'REASON', value: (e: AuditEvent) => e.reason },
  { title: 'SUBJECT', value: (e: AuditEvent) => e.subject, cut: true },
  { title: 'MESSAGE', value: (e: AuditEvent) => e.message, cut: true },
];

function readSince(text: string): Date {
  const time = new Date(text);
  if (/\d-\d/.test(text) && !Number.isNaN(time.getTime())) return time;
  try {
    return new Date(Date.now() - parseDuration(text));
  } catch {
    throw new InvalidArgumentError(
      'Give a time such as 2026-01-31T12:00Z, or a duration such as 2h.',
    );
  }
}

function readCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= MOST) return count;
  throw new InvalidArgumentError(`Give a number from 1 to ${MOST}.`);
}

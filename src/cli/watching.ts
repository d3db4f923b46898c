import type { Migration } from '../gen/drover/v1/migration.js';
import type { AgentClient } from '../rpc/client.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { openProgressDisplay } from './display.js';
import { EXIT_BY_SIGNAL, exitOfState } from './exit-codes.js';
import { guestPlace } from './figures.js';
import { follow } from './follow.js';
import { isUuid } from './options.js';
import { type Report, reportOfFailure } from './report.js';
import type { Session } from './session.js';
import { renderSummary } from './summary.js';

/**
 * Follows a migration to its end: its progress on stderr, its summary on stdout, why it failed on
 * stderr. With `--json`, every snapshot on stdout. Answers the exit code.
 */
export async function watchToTheEnd(
  migrationId: string,
  agent: AgentClient,
  session: Session,
): Promise<number> {
  const { environment, json } = session;
  const signal = environment.interruption();
  const display = json ? undefined : openProgressDisplay(environment.stderr, environment.env);
  try {
    const last = await follow({
      watch: (ended) => agent.migrations.watchMigration({ migrationId }, { signal: ended }),
      onSnapshot: (migration) => {
        if (json) session.print({ migration }, () => []);
        else display?.show(migration);
      },
      patienceMs: environment.doubtPatienceMs,
      signal,
    });
    display?.end({ clear: last.state === 'STATE_SUCCEEDED' });
    tellOutcome(last, session);
    return exitOfState(last.state);
  } catch (error) {
    if (!signal.aborted) throw error;
    session.note(
      [
        // The terminal has echoed a `^C` on this line.
        environment.stderr.isTTY ? '\nThe migration goes on.' : 'The migration goes on.',
        `  follow it:  drover watch ${migrationId}`,
        `  cancel it:  drover cancel ${migrationId}`,
      ].join('\n'),
    );
    return signal.reason === 'SIGTERM' ? EXIT_BY_SIGNAL.SIGTERM : EXIT_BY_SIGNAL.SIGINT;
  } finally {
    display?.end();
  }
}

function tellOutcome(migration: Migration, session: Session): void {
  if (migration.state === 'STATE_SUCCEEDED') {
    if (!session.json)
      session.print({}, ({ width, style }) => renderSummary(migration, width, style));
    return;
  }
  session.tell(migration.failure ? reportOfFailure(migration.failure) : unexplained(migration));
  const place = guestPlace(migration);
  if (place) session.note(`${migration.domainName}: ${place}.`);
}

function unexplained(migration: Migration): Report {
  return {
    reason: migration.state === 'STATE_CANCELLED' ? 'CANCELLED_BY' : 'INTERNAL',
    message: `The migration ended in ${migration.state} and the agent did not say why.`,
    side: 'SIDE_UNSPECIFIED',
    phase: '',
    hint: "Read the agent's log.",
    retryable: false,
    metadata: {},
    violations: [],
  };
}

/**
 * The id of the migration that a person means: by its own id, or the newest one of a domain named.
 *
 * @throws ReasonedError `MIGRATION_NOT_FOUND`
 */
export async function findMigration(name: string, agent: AgentClient): Promise<string> {
  if (isUuid(name)) {
    try {
      const { migration } = await agent.migrations.getMigration({ migrationId: name });
      if (migration) return migration.migrationId;
    } catch (error) {
      const isOther = error instanceof ReasonedError && error.reason === 'MIGRATION_NOT_FOUND';
      if (!isOther) throw error;
      // It may be the UUID of a domain.
    }
  }
  const { migrations } = await agent.migrations.listMigrations({ domain: name });
  const [newest] = migrations;
  if (newest) return newest.migrationId;
  throw new ReasonedError(
    'MIGRATION_NOT_FOUND',
    `The agent knows no migration ${name}, and none of a domain of this name.`,
  );
}

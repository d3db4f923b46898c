import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpTimeoutError } from '../qmp/errors.js';
import type { EventListener } from '../qmp/event-listener.js';
import type { MigrationStatus, RunState } from '../qmp/types.gen.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import { untilAnswered } from './until-answered.js';
import { yankStalled } from './yank.js';

/** The events of a migration at its source. */
export const MIGRATION_EVENTS = ['MIGRATION', 'STOP', 'RESUME', 'SHUTDOWN'] as const;

/** What is known of the guest whose migration is to be undone. */
export interface UndoneMigration {
  /** True when its user had paused it: then it stays so. */
  readonly guestPaused: boolean;
  /**
   * Where it says no of the state that the guest is in once the migration has ended, the guest is
   * left as it is. Default: always yes.
   */
  readonly only?: (status: RunState) => boolean;
  /** Block nodes whose connections are cut when QEMU does not move. */
  readonly targets: readonly string[];
}

/** Statuses in which no migration is on its way. */
const ENDED: readonly (MigrationStatus | undefined)[] = [
  undefined,
  'none',
  'completed',
  'failed',
  'cancelled',
];

const STEP = { limitMs: STEP_LIMIT_MS };

/** True when the guest runs, or sleeps by its own will. */
export function isLive(status: RunState): boolean {
  return status === 'running' || status === 'suspended';
}

/** True while a migration, on its way or completed, is why the guest does not run. */
export function isHeld(status: RunState): boolean {
  return status === 'finish-migrate' || status === 'postmigrate';
}

/**
 * Ends the outgoing migration of a QEMU and brings its guest back to what it did before: running,
 * or paused by its user. Only for a guest that cannot run anywhere else. A QEMU that does not
 * answer is asked again until it does or is gone, because its guest would stay stopped for ever.
 * Never throws: what does not work is reported, and a QEMU that is gone has nothing to bring back.
 */
export async function resumeSource(
  process: QemuProcess,
  undone: UndoneMigration,
  report: ReportProblem,
): Promise<void> {
  await untilAnswered(process, report, (qmp, problems) => tryToResume(qmp, undone, problems));
}

/** False where QEMU did not answer. Connections that it may be waiting for are cut then. */
async function tryToResume(
  qmp: QmpClient,
  undone: UndoneMigration,
  report: ReportProblem,
): Promise<boolean> {
  using events = qmp.listen('MIGRATION', 'RESUME');
  const attempt = async (step: string, work: () => Promise<unknown>) => {
    try {
      await work();
      return true;
    } catch (error) {
      if (error instanceof QmpClosedError) throw error;
      report(step, error);
      return !(error instanceof QmpTimeoutError);
    }
  };
  const ended = await attempt('cancel the migration', async () => {
    try {
      await endMigration(qmp, events);
    } catch (error) {
      if (!(error instanceof QmpTimeoutError)) throw error;
      await yankStalled(qmp, { nodes: undone.targets, migration: true });
      await endMigration(qmp, events);
    }
  });
  if (!ended) return false;
  return await attempt('bring the guest back', () =>
    undone.guestPaused ? bringBackPaused(qmp) : bringBackRunning(qmp, events, undone.only),
  );
}

type Events = EventListener<'MIGRATION' | 'RESUME'>;

async function endMigration(qmp: QmpClient, events: Events): Promise<void> {
  const { status } = await qmp.execute('query-migrate', {}, STEP);
  if (ENDED.includes(status)) return;
  await qmp.execute('migrate_cancel', {}, STEP);
  await events.next((event) => event.name === 'MIGRATION' && ENDED.includes(event.data.status), {
    signal: new AbortController().signal,
    ...STEP,
  });
}

/**
 * QEMU resumes the guest by itself when a migration fails or is cancelled, but not when it had
 * completed.
 */
async function bringBackRunning(
  qmp: QmpClient,
  events: Events,
  only: (status: RunState) => boolean = () => true,
): Promise<void> {
  let { status } = await qmp.execute('query-status', {}, STEP);
  if (status === 'finish-migrate') {
    // The migration's thread has not come to it yet.
    await events
      .next(({ name }) => name === 'RESUME', { signal: new AbortController().signal, ...STEP })
      .catch((error) => {
        if (!(error instanceof QmpTimeoutError)) throw error;
      });
    ({ status } = await qmp.execute('query-status', {}, STEP));
  }
  if (isLive(status) || !only(status)) return;
  const [, now] = await Promise.all([
    qmp.execute('cont', {}, STEP),
    qmp.execute('query-status', {}, STEP),
  ]);
  if (!isLive(now.status)) {
    throw new DomainError('INTERNAL', `The guest is ${now.status} after the migration was undone.`);
  }
}

/**
 * After a migration that had completed, QEMU takes no other one before its guest has run again,
 * however short.
 */
async function bringBackPaused(qmp: QmpClient): Promise<void> {
  const { status } = await qmp.execute('query-status', {}, STEP);
  if (status !== 'postmigrate') return;
  await Promise.all([qmp.execute('cont', {}, STEP), qmp.execute('stop', {}, STEP)]);
}

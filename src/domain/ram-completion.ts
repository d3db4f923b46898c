import type { QmpClient } from '../qmp/client.js';
import type { EventListener, QmpEvent } from '../qmp/event-listener.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { MIGRATION_EVENTS } from './resume-source.js';
import type { WaitOptions } from './types.js';

type Events = EventListener<(typeof MIGRATION_EVENTS)[number]>;

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * Lets QEMU send the last pass and resolves when its migration has completed and the guest can
 * never run again by itself. `cause` tells why the stream broke, if it did.
 *
 * @throws DomainError `RAM_FAILED`
 */
export async function completeRam(
  qmp: QmpClient,
  events: Events,
  options: WaitOptions,
  cause: () => unknown,
): Promise<void> {
  const step = { ...STEP, signal: options.signal };
  await qmp.execute('migrate-continue', { state: 'pre-switchover' }, step);
  for (;;) {
    const event = await events.next(({ name }) => name === 'MIGRATION', options);
    if (event.name !== 'MIGRATION') continue;
    if (event.data.status === 'completed') break;
    await assertGoing(qmp, event, cause);
  }
  // The event is a message, the state is the fence: a QEMU in postmigrate never runs the guest by
  // itself.
  for (;;) {
    const [migration, { status }] = await Promise.all([
      qmp.execute('query-migrate', {}, step),
      qmp.execute('query-status', {}, step),
    ]);
    if (migration.status === 'completed' && status === 'postmigrate') return;
    // Between the event and the state QEMU has a few instructions left to do, each query lets it do
    // them.
    if (migration.status === 'completed' && status === 'finish-migrate') continue;
    throw new DomainError(
      'RAM_FAILED',
      `QEMU said that it had sent all, but its migration is ${migration.status} and its guest ${status}: somebody else has told it so.`,
      { side: 'source' },
    );
  }
}

/** @throws DomainError `RAM_FAILED` for an event that says that the migration has ended */
export async function assertGoing(
  qmp: QmpClient,
  event: QmpEvent<'MIGRATION'>,
  cause: () => unknown,
): Promise<void> {
  const { status } = event.data;
  if (status !== 'failed' && status !== 'cancelled' && status !== 'completed') return;
  const info = await qmp.execute('query-migrate', {}, STEP);
  const description = info['error-desc'] ?? `it ended as ${status}`;
  const broken = cause();
  throw new DomainError('RAM_FAILED', `Sending the RAM failed: ${description}`, {
    side: 'source',
    facts: { qemu_error: description, status },
    ...(broken === undefined ? {} : { cause: broken }),
  });
}

import type { QmpEventName } from '../../../src/qmp/event-listener.js';
import type { Pair, PairOptions, Side } from '../qmp-pair.js';

/**
 * One behaviour of QEMU that the product depends on. It holds for the real one and for the fake.
 */
export interface Behaviour {
  readonly name: string;
  readonly options?: PairOptions;
  readonly check: (pair: Pair) => Promise<void>;
}

/** QEMU's class for most refusals. */
export const GENERIC = { name: 'QmpError', errorClass: 'GenericError' };
/** QEMU's class for block jobs that do not exist. */
export const NOT_ACTIVE = { name: 'QmpError', errorClass: 'DeviceNotActive' };

export async function status(side: Side): Promise<string> {
  return (await side.qmp.execute('query-status')).status;
}

export async function migrationStatus(side: Side): Promise<string | undefined> {
  return (await side.qmp.execute('query-migrate')).status;
}

/** Does something and waits for the event that it leads to. */
export async function andWaitFor<E extends QmpEventName>(
  pair: Pair,
  side: Side,
  name: E,
  wanted: string | undefined,
  act: () => Promise<unknown>,
): Promise<void> {
  using events = side.qmp.listen(name);
  await act();
  const matches = (event: { data: object }) =>
    wanted === undefined || (event.data as { status?: string }).status === wanted;
  await events.next(matches, { signal: pair.signal });
}

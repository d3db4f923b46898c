import { probePort } from '../channel/data-probe.js';
import type { Transport } from '../channel/types.js';
import type { DataProbe, WaitOptions } from '../domain/types.js';
import { formatAddress } from '../util/address.js';
import { MigrationError } from './errors.js';

/** What a caller may ask for. */
export type TransportWish = Transport | 'auto';

/** How disks and RAM travel, and why so. */
export interface ChosenTransport {
  readonly transport: Transport;
  /** In words, for people. */
  readonly reason: string;
  /** Of the way between the data addresses, in milliseconds; undefined where it is not known. */
  readonly roundTripMs?: number;
}

/**
 * Chooses before the first byte. Direct is better for guests and agents wherever it works: the
 * bytes pass through no process but the two QEMUs.
 *
 * @throws MigrationError `DATA_UNREACHABLE` where direct was asked for and does not work
 */
export async function chooseTransport(
  wish: TransportWish,
  openProbe: (options: WaitOptions) => Promise<DataProbe>,
  options: WaitOptions,
): Promise<ChosenTransport> {
  if (wish === 'stream') return { transport: 'stream', reason: 'asked for' };
  const port = await openProbe(options);
  const place = formatAddress({ host: port.address, port: port.port });
  const probe = await probePort(port, options);
  if (probe.reached) {
    const { roundTripMs } = probe;
    const answered = `${place} answered within ${roundTripMs.toFixed(1)} ms`;
    return {
      transport: 'direct',
      reason: wish === 'direct' ? 'asked for' : answered,
      roundTripMs,
    };
  }
  if (wish === 'auto') return { transport: 'stream', reason: `${place} ${probe.why}` };
  throw new MigrationError('DATA_UNREACHABLE', `${place} ${probe.why}.`, {
    facts: { address: port.address, port: port.port },
  });
}

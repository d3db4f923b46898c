import type { QmpClient } from '../qmp/client.js';
import type { MigrationCapability } from '../qmp/types.gen.js';
import { HELD } from './downtime-ladder.js';
import type { WaitOptions } from './types.js';

/** QEMU has no word for "as fast as it goes", and its default is 128 MiB/s: this is 1 TiB/s. */
const UNLIMITED_BYTES_PER_S = 2 ** 40;

const SOURCE_CAPABILITIES: readonly MigrationCapability[] = [
  'events',
  'return-path',
  'pause-before-switchover',
  'validate-uuid',
];

const DESTINATION_CAPABILITIES: readonly MigrationCapability[] = [
  'events',
  'return-path',
  'validate-uuid',
];

/**
 * Sets the source's QEMU up for one RAM stream, in which it does not pause a guest that writes to
 * its RAM; settings of an earlier one do not stay. `credentials` is the id of the TLS credentials,
 * empty for none.
 */
export async function setUpStream(
  qmp: QmpClient,
  credentials: string,
  maxBandwidth: number,
  options: WaitOptions,
): Promise<void> {
  await setCapabilities(qmp, SOURCE_CAPABILITIES, options);
  const parameters = { ...HELD, ...tls(credentials), ...bandwidth(maxBandwidth) };
  await qmp.execute('migrate-set-parameters', parameters, options);
}

/** The same for a stream that goes on already: its credentials stay. */
export async function holdStream(
  qmp: QmpClient,
  maxBandwidth: number,
  options: WaitOptions,
): Promise<void> {
  await qmp.execute('migrate-set-parameters', { ...HELD, ...bandwidth(maxBandwidth) }, options);
}

/** Changes how fast QEMU sends, in bytes per second; 0 is unlimited. */
export async function setStreamBandwidth(
  qmp: QmpClient,
  bytesPerSecond: number,
  options: WaitOptions & { readonly limitMs: number },
): Promise<void> {
  await qmp.execute('migrate-set-parameters', bandwidth(bytesPerSecond), options);
}

/** Sets the destination's QEMU up. It must not announce a guest that may not run yet. */
export async function setUpIncomingStream(
  qmp: QmpClient,
  credentials: string,
  options: WaitOptions,
): Promise<void> {
  await setCapabilities(qmp, DESTINATION_CAPABILITIES, options);
  const parameters = { 'announce-rounds': 0, ...tls(credentials) };
  await qmp.execute('migrate-set-parameters', parameters, options);
}

/** Makes QEMU forget credentials that are about to go. */
export async function forgetCredentials(
  qmp: QmpClient,
  options: { readonly limitMs: number },
): Promise<void> {
  await qmp.execute('migrate-set-parameters', tls(''), options);
}

function tls(credentials: string) {
  return { 'tls-creds': credentials, 'tls-hostname': '' };
}

/** QEMU counts in tenths of a second: less than ten bytes would be nothing, which is no limit. */
const LEAST_BYTES_PER_S = 10;

function bandwidth(bytesPerSecond: number) {
  const limit = bytesPerSecond && Math.max(LEAST_BYTES_PER_S, Math.round(bytesPerSecond));
  return { 'max-bandwidth': limit || UNLIMITED_BYTES_PER_S };
}

/** Puts exactly these on: whatever else is on would change what the stream means. */
async function setCapabilities(
  qmp: QmpClient,
  wanted: readonly MigrationCapability[],
  options: WaitOptions,
): Promise<void> {
  const known = await qmp.execute('query-migrate-capabilities', {}, options);
  const others = known.filter(({ capability, state }) => state && !wanted.includes(capability));
  await qmp.execute(
    'migrate-set-capabilities',
    {
      capabilities: [
        ...others.map(({ capability }) => ({ capability, state: false })),
        ...wanted.map((capability) => ({ capability, state: true })),
      ],
    },
    options,
  );
}

import type { QmpClient } from '../qmp/client.js';
import type { MigrationCapability } from '../qmp/types.gen.js';
import type { MigrationLimits, WaitOptions } from './types.js';

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

/** Sets the source's QEMU up for one RAM stream; settings of an earlier one do not stay. */
export async function setUpStream(
  qmp: QmpClient,
  limits: MigrationLimits,
  options: WaitOptions,
): Promise<void> {
  await setCapabilities(qmp, SOURCE_CAPABILITIES, options);
  await qmp.execute(
    'migrate-set-parameters',
    {
      'max-bandwidth': limits.maxBandwidth || UNLIMITED_BYTES_PER_S,
      'downtime-limit': limits.downtimeLimitMs,
    },
    options,
  );
}

/** Sets the destination's QEMU up. It must not announce a guest that may not run yet. */
export async function setUpIncomingStream(qmp: QmpClient, options: WaitOptions): Promise<void> {
  await setCapabilities(qmp, DESTINATION_CAPABILITIES, options);
  await qmp.execute('migrate-set-parameters', { 'announce-rounds': 0 }, options);
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

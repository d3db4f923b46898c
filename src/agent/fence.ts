import type { Fence } from '../migration/resolving.js';
import { run } from '../process/run.js';
import type { FenceConfig } from './config.js';

/** The configured command as the flow sees it: what it is told, and that only 0 counts. */
export function fenceBy(config: FenceConfig | undefined): Fence | undefined {
  if (!config) return undefined;
  const { command, limitMs } = config;
  return async ({ peerHost, migrationId, domainName, domainUuid }, { signal }) => {
    await run(command, [...config.arguments, peerHost, migrationId], {
      signal,
      limitMs,
      env: {
        DROVER_PEER_HOST: peerHost,
        DROVER_MIGRATION_ID: migrationId,
        DROVER_DOMAIN_NAME: domainName,
        DROVER_DOMAIN_UUID: domainUuid,
      },
    });
  };
}

import { stat } from 'node:fs/promises';
import type { Log } from '../util/log.js';
import { ReasonedError } from '../util/reasoned-error.js';
import type { AgentConfig } from './config.js';

const OTHERS_WRITE = 0o002;
const OTHERS_READ = 0o004;

/**
 * Asserts that not everybody can write what decides who may do what here: the configuration, the
 * certificate with its key, the CA and the fence command. A key that everybody can read is warned
 * of. Files that are not there are missed by whoever reads them.
 *
 * @throws ReasonedError `CONFIG_INVALID`
 */
export async function checkFileModes(
  configFile: string,
  { tls, fence }: Pick<AgentConfig, 'tls' | 'fence'>,
  log: Log,
): Promise<void> {
  const fenced = fence ? [fence.command] : [];
  for (const path of [configFile, tls.certificate, tls.key, tls.ca, ...fenced]) {
    if ((await modeOf(path)) & OTHERS_WRITE) {
      throw new ReasonedError('CONFIG_INVALID', `Everybody can write to ${path}.`, {
        hint: `Look at what is in it, then run \`chmod o-w ${path}\`.`,
      });
    }
  }
  if ((await modeOf(tls.key)) & OTHERS_READ) {
    log.warn({ key_file: tls.key }, 'everybody on this host can read the key: chmod o-r');
  }
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.mode ?? 0;
}

import { join } from 'node:path';
import { type AgentClient, connectAgent } from '../rpc/client.js';
import { parseAddress } from '../util/address.js';
import { ReasonedError } from '../util/reasoned-error.js';
import type { CliEnvironment, GlobalOptions } from './session.js';

const DEFAULT_AGENT = 'unix:/run/drover/drover.sock';
const NO_CERTIFICATE =
  'Make one with `drover pki issue operator NAME`, or name it with --certificate, --key and --ca.';

/**
 * Prepares calls to the agent that options, environment or default name, in this order.
 *
 * @throws ReasonedError `REQUEST_INVALID` for an address that is none, `CONFIG_INVALID` where the
 *   certificate cannot be used
 */
export function connect(
  options: GlobalOptions,
  environment: Pick<CliEnvironment, 'env' | 'homeDirectory'>,
): AgentClient {
  const { env, homeDirectory } = environment;
  const address = options.agent || env['DROVER_AGENT'] || DEFAULT_AGENT;
  checkAddress(address);
  const file = (option: string | undefined, variable: string, name: string) =>
    option || env[variable] || join(homeDirectory, '.config', 'drover', name);
  const tls = {
    certificate: file(options.certificate, 'DROVER_CERTIFICATE', 'certificate.pem'),
    key: file(options.key, 'DROVER_KEY', 'key.pem'),
    ca: file(options.ca, 'DROVER_CA', 'ca.pem'),
  };
  try {
    return connectAgent({ address, tls });
  } catch (error) {
    throw isMissingFile(error) ? withHint(error, NO_CERTIFICATE) : error;
  }
}

function isMissingFile(error: unknown): error is ReasonedError {
  if (!(error instanceof ReasonedError) || error.reason !== 'CONFIG_INVALID') return false;
  return (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
}

function withHint({ reason, message, cause, facts }: ReasonedError, hint: string): ReasonedError {
  return new ReasonedError(reason, message, { cause, facts, hint });
}

function checkAddress(address: string): void {
  const hint = 'Give --agent or DROVER_AGENT as HOST, HOST:PORT or unix:PATH.';
  if (address.startsWith('unix:')) {
    if (address.length > 'unix:'.length) return;
    throw new ReasonedError('REQUEST_INVALID', 'The path of the unix socket is empty.', { hint });
  }
  try {
    parseAddress(address);
  } catch (cause) {
    throw new ReasonedError('REQUEST_INVALID', (cause as RangeError).message, { cause, hint });
  }
}

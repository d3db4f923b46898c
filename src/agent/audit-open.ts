import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { AuditEvent } from '../util/audit.js';
import type { Log } from '../util/log.js';
import { droverVersion } from '../util/version.js';
import { Audit } from './audit.js';
import type { AgentConfig } from './config.js';

type Event = Omit<AuditEvent, 'time'>;

/** Opens the record of a host, with what earlier lives of the agent have written. Never fails. */
export async function openAudit(
  { host, directories, limits }: AgentConfig,
  log: Log,
): Promise<Audit> {
  const audit = new Audit({
    folder: join(directories.state, 'audit'),
    fileBytes: limits.auditFileBytes,
    self: `host/${host}`,
    log,
  });
  await audit.load();
  return audit;
}

/** Something that the agent itself has done. */
export function agentEvent({ host }: AgentConfig, action: string): Event {
  const message = `drover ${droverVersion()}`;
  return { caller: `host/${host}`, action, decision: 'EVENT', reason: 'OK', subject: '', message };
}

/** Records that a person has accepted a state, while the agent does not run. */
export async function recordAccepted(
  config: AgentConfig,
  mismatches: readonly string[],
): Promise<void> {
  const audit = await openAudit(config, silent);
  const event = agentEvent(config, 'STATE_ACCEPTED');
  const message = mismatches.join('; ');
  audit.record({ ...event, caller: `operator/${userName()}`, message });
  await audit.close();
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A user id without an entry.
    return 'local';
  }
}

const silent: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silent,
};

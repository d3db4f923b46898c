import { join } from 'node:path';
import type { Doubt } from '../domain/types.js';
import { Journals } from '../migration/journals.js';
import type { Migration } from '../migration/migration.js';
import { type BindingOptions, checkBinding, describeQuarantine } from '../process/state-binding.js';
import { StateLock } from '../process/state-lock.js';
import type { LogFiles } from '../util/log-files.js';
import type { Logger } from './logger.js';

/** A rescue process may hold the lock for as long as it takes to bring the guests back. */
const LOCK_LIMIT_MS = 15_000;

/** The state directory of an agent, which nobody else may use meanwhile. */
export interface AgentState {
  readonly journals: Journals;
  /** Of this boot; empty where the kernel does not say. */
  readonly bootId: string;
  /** Why nothing may be started from this state; undefined where all is well. */
  readonly quarantine: Doubt | undefined;
  /** Removes the journal of a migration that nobody will ask for any more. */
  forget(migration: Migration, host: string): Promise<void>;
  close(): Promise<void>;
}

/** What tests bring instead of this machine's own. */
export interface StateParts {
  /** Where journals are written. */
  readonly journalFiles?: LogFiles;
  /** Where the facts about the machine are read. */
  readonly machine?: BindingOptions;
}

/**
 * Takes the lock of a state directory and finds out whether it is where it was written.
 *
 * @throws ReasonedError `STATE_LOCKED`
 */
export async function openState(
  directory: string,
  log: Logger,
  { journalFiles, machine }: StateParts = {},
): Promise<AgentState> {
  const lock = await StateLock.acquire(directory, { limitMs: LOCK_LIMIT_MS });
  try {
    const { binding, mismatches } = await checkBinding(directory, machine);
    const journals = new Journals({
      folder: join(directory, 'journal'),
      binding,
      ...(journalFiles ? { files: journalFiles } : {}),
    });
    const message = describeQuarantine(directory, mismatches);
    if (mismatches.length > 0) log.error({ mismatches }, message);
    return {
      journals,
      bootId: binding.bootId ?? '',
      quarantine: mismatches.length > 0 ? { reason: 'STATE_FOREIGN', message } : undefined,
      async forget({ domainUuid, migrationId, sourceHost }, host) {
        const side = sourceHost === host ? 'source' : 'destination';
        const path = journals.pathOf(domainUuid, migrationId, side);
        await journals.remove(path).catch((error) => log.warn({ err: error }, 'a journal stays'));
      },
      close: () => lock.release(),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

import { access, stat } from 'node:fs/promises';
import { join, resolve, sep } from 'node:path';
import type { JournalFile } from '../migration/journal-file.js';
import { readJournal } from '../migration/journal-file.js';
import { JOURNAL_RECORDS, type RecordRule } from '../migration/journal-records.js';
import { Journals } from '../migration/journals.js';
import { acceptBinding, inspectBinding } from '../process/state-binding.js';
import { StateLock } from '../process/state-lock.js';
import { systemClock } from '../util/clock.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { recordAccepted } from './audit-open.js';
import { type AgentConfig, loadConfig } from './config.js';

/*
 * What can be done with an agent's state while the agent does not run, or without asking it.
 */

export type { JournalFile } from '../migration/journal-file.js';
export type { RecordRule } from '../migration/journal-records.js';

/** What a record means and whether it was made durable; undefined for one this version lacks. */
export function recordRule(record: string): RecordRule | undefined {
  return (JOURNAL_RECORDS as Readonly<Record<string, RecordRule>>)[record];
}

/** The journals of a host. */
export interface ReadState {
  readonly stateDirectory: string;
  /** What shows that the state is not where it was written. */
  readonly mismatches: readonly string[];
  readonly journals: readonly JournalFile[];
}

/**
 * Reads the journals of the agent that a configuration describes; changes nothing, and needs no
 * lock.
 *
 * @throws ReasonedError `CONFIG_INVALID`
 */
export async function readState(configFile: string): Promise<ReadState> {
  const stateDirectory = await findState(await loadConfig(configFile));
  const { binding, mismatches } = await inspectBinding(stateDirectory);
  const journals = await new Journals({ folder: folderIn(stateDirectory), binding }).readAll();
  return { stateDirectory, mismatches, journals };
}

/**
 * Reads one journal by its path. A copy that lies elsewhere than in the state directory is read as
 * it is, and not compared with this host.
 *
 * @throws ReasonedError `REQUEST_INVALID` if there is no such file, `CONFIG_INVALID`
 */
export async function readJournalFile(
  path: string,
  configFile: string | undefined,
): Promise<JournalFile> {
  await access(path).catch((cause: NodeJS.ErrnoException) => {
    throw new ReasonedError('REQUEST_INVALID', `${path} cannot be read (${cause.code}).`, {
      cause,
      hint: 'Check the path.',
    });
  });
  if (configFile !== undefined) {
    const stateDirectory = await findState(await loadConfig(configFile));
    if (resolve(path).startsWith(`${folderIn(stateDirectory)}${sep}`)) {
      return await readJournal(path, await inspectBinding(stateDirectory));
    }
  }
  return await readJournal(path, { binding: undefined });
}

/** What was accepted. */
export interface AcceptedState {
  readonly stateDirectory: string;
  /** What differed. */
  readonly mismatches: readonly string[];
  /** The paths of the journals that were foreign. */
  readonly journals: readonly string[];
}

/**
 * Writes that the state of an agent, and each foreign journal in it, belongs where it lies now.
 * Only a person can know that no other host runs these guests. Repeating it is harmless.
 *
 * @param host The host's name as the person has typed it, which shows that the right one is meant.
 * @throws ReasonedError `REQUEST_INVALID` if that is another name, `STATE_LOCKED` while the agent
 *   runs, `CONFIG_INVALID`, `JOURNAL_FAILED`
 */
export async function acceptState(configFile: string, host: string): Promise<AcceptedState> {
  const config = await loadConfig(configFile);
  if (host !== config.host) {
    throw new ReasonedError(
      'REQUEST_INVALID',
      `${configFile} is the configuration of ${config.host}, not of ${host}.`,
      { hint: 'Give the name of the host whose state is to be accepted.' },
    );
  }
  const stateDirectory = await findState(config);
  await using _lock = await StateLock.acquire(stateDirectory);
  const { binding, mismatches } = await inspectBinding(stateDirectory);
  const journals = new Journals({ folder: folderIn(stateDirectory), binding, clock: systemClock });
  const foreign = (await journals.readAll()).filter(({ health }) => health === 'foreign');
  // The state last: whoever is interrupted finds the quarantine still there.
  for (const { path } of foreign) await journals.rebind(path);
  await acceptBinding(stateDirectory);
  await recordAccepted(config, mismatches);
  return { stateDirectory, mismatches, journals: foreign.map(({ path }) => path) };
}

async function findState({ directories }: AgentConfig): Promise<string> {
  try {
    await stat(directories.state);
    return directories.state;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const what = code === 'ENOENT' ? 'is not there' : `cannot be read (${code})`;
    throw new ReasonedError('CONFIG_INVALID', `The state directory ${directories.state} ${what}.`, {
      cause,
      hint: 'Check directories.state in the configuration, and that the agent has run.',
    });
  }
}

function folderIn(stateDirectory: string): string {
  return join(stateDirectory, 'journal');
}

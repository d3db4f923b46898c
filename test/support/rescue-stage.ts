import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RescueDirectories } from '../../src/agent/rescue-guests.js';
import type { JournalRecord } from '../../src/migration/journal-records.js';
import { Journals } from '../../src/migration/journals.js';
import type { Launcher } from '../../src/process/launcher.js';
import { checkBinding } from '../../src/process/state-binding.js';
import type { LogFields } from '../../src/util/append-log.js';
import { type Pair, startPair } from './qmp-pair.js';

const MODULE = fileURLToPath(new URL('../../src/process/state-lock.ts', import.meta.url));
const MIGRATION = '01931c2a-0000-7000-8000-00000000000';

/** A record, or a record with its details. */
export type Said = JournalRecord | readonly [JournalRecord, LogFields];

/** What a journal of the stage is about. */
export interface JournalOptions {
  /** Tells the journals of one stage apart. Default: 1. */
  readonly id?: number;
  readonly side?: 'source' | 'destination';
  /** The boot in which it was made. Default: this one. */
  readonly bootId?: string;
  readonly generation?: number;
}

/**
 * What a rescue process finds on a host: a state with journals, a QEMU whose guest is leaving, and
 * stand-ins for the agent, which do nothing but hold the state's lock.
 */
export class RescueStage implements AsyncDisposable {
  readonly directories: RescueDirectories;
  readonly pair: Pair;
  readonly #folder: string;
  readonly #agents: ChildProcess[] = [];

  private constructor(folder: string, directories: RescueDirectories, pair: Pair) {
    this.#folder = folder;
    this.directories = directories;
    this.pair = pair;
  }

  static async open(launcher: Launcher, binary: string): Promise<RescueStage> {
    const pair = await startPair(launcher, binary);
    const folder = mkdtempSync(join(tmpdir(), 'drover-rescue-'));
    const directories = { state: join(folder, 'state'), run: join(folder, 'run') };
    mkdirSync(directories.run);
    const { directory, uuid } = pair.source.qemu.record;
    symlinkSync(directory, join(directories.run, uuid));
    await checkBinding(directories.state);
    return new RescueStage(folder, directories, pair);
  }

  get uuid(): string {
    return this.pair.source.qemu.record.uuid;
  }

  get monitorPath(): string {
    return this.pair.source.qemu.rescueMonitorPath;
  }

  /** Writes a journal of a migration of the guest, and answers its path. */
  async write(records: readonly Said[], options: JournalOptions = {}): Promise<string> {
    const { id = 1, side = 'source', bootId, generation = 1 } = options;
    const { binding } = await checkBinding(this.directories.state);
    const journals = new Journals({
      folder: join(this.directories.state, 'journal'),
      binding: { ...binding, ...(bootId ? { bootId } : {}) },
    });
    await using journal = await journals.create({
      migrationId: `${MIGRATION}${id}`,
      side,
      domainUuid: this.uuid,
      domainName: 'web',
      sourceHost: 'alpha',
      destinationHost: 'beta',
      epoch: 0,
      generation,
      attempt: 1,
    });
    for (const said of records) {
      const [record, details] = typeof said === 'string' ? [said, {}] : said;
      await journal.append(record, details);
    }
    return journal.path;
  }

  /** The records of a journal, with their details. */
  async read(path: string) {
    const { binding } = await checkBinding(this.directories.state);
    const journals = new Journals({ folder: join(this.directories.state, 'journal'), binding });
    return (await journals.read(path)).entries;
  }

  /** What the guest does. */
  async guest(): Promise<string> {
    return (await this.pair.source.qmp.execute('query-status')).status;
  }

  /** Starts a process that holds the lock; resolves when it has it. */
  async startAgent(): Promise<ChildProcess> {
    const program = `
      const { StateLock } = await import(${JSON.stringify(MODULE)});
      const state = ${JSON.stringify(this.directories.state)};
      const lock = await StateLock.acquire(state, { limitMs: 30_000 });
      console.log('holds it');
      setInterval(() => lock, 1000);`;
    const agent = spawn(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '--eval', program],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    this.#agents.push(agent);
    await once(agent.stdout as NodeJS.ReadableStream, 'data');
    return agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#agents) await end(agent);
    await this.pair[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Ends a process as a crash would, and waits until it is gone. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

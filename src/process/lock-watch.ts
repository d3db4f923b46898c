import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isAlive, isStopped } from './proc.js';
import { type LockHolder, readHolder } from './state-lock.js';

/** What is seen of whoever has the lock of a state directory. */
export interface Sighting {
  /**
   * `here`: that process lives and has the lock; `stopped`: the same, and it is stopped by a signal
   * or a debugger; `gone`: nobody has the lock, or this process itself had it last.
   */
  readonly state: 'here' | 'stopped' | 'gone';
  /** Who took the lock last, where that was another process. */
  readonly holder: LockHolder | undefined;
}

/** Looks at the holder of a state's lock again and again, without ever touching the lock. */
export class LockWatch {
  readonly #stateDirectory: string;
  readonly #path: string;
  /** The holder as it was read last, while nothing has changed since. */
  #known: { readonly holder: LockHolder; readonly version: string } | undefined;
  /** The holder's descriptor of the lock file, where it was found last. */
  #link = '';

  constructor(stateDirectory: string) {
    this.#stateDirectory = stateDirectory;
    this.#path = join(stateDirectory, 'lock');
  }

  /** False once the state directory is not there any more. */
  get exists(): boolean {
    return statSync(this.#stateDirectory, { throwIfNoEntry: false }) !== undefined;
  }

  async look(): Promise<Sighting> {
    const holder = await this.#readHolder();
    if (!holder?.alive) return { state: 'gone', holder };
    if (holder.pid === process.pid) return { state: 'gone', holder: undefined };
    if (!this.#hasLockOpen(holder.pid)) return { state: 'gone', holder };
    return { state: isStopped(holder) ? 'stopped' : 'here', holder };
  }

  /** Reads what the holder has written only where it may be new: most looks find nothing new. */
  async #readHolder(): Promise<LockHolder | undefined> {
    const version = versionOf(this.#path);
    const known = this.#known;
    if (known?.version === version && isAlive(known.holder)) return known.holder;
    const holder = await readHolder(this.#stateDirectory);
    // One that has gone may be followed by another in the very same tick of the file's time.
    this.#known = holder?.alive ? { holder, version } : undefined;
    return holder;
  }

  // The lock belongs to an open file: a process that lives, and has closed it, has it no more.
  #hasLockOpen(pid: number): boolean {
    const lock = identityOf(this.#path);
    if (this.#link.startsWith(`/proc/${pid}/`) && identityOf(this.#link) === lock) return true;
    const folder = `/proc/${pid}/fd`;
    try {
      const links = readdirSync(folder).map((name) => join(folder, name));
      this.#link = links.find((link) => identityOf(link) === lock) ?? '';
      return this.#link !== '';
    } catch {
      // A process that does not let itself be looked at is taken to have what it says.
      return true;
    }
  }
}

function versionOf(path: string): string {
  const status = statSync(path, { bigint: true, throwIfNoEntry: false });
  return status ? `${status.ino} ${status.mtimeNs}` : '';
}

/** Which file a path leads to; of no use where there is none. */
function identityOf(path: string): string {
  const status = statSync(path, { bigint: true, throwIfNoEntry: false });
  return status ? `${status.dev} ${status.ino}` : 'none';
}

import { type LogFile, type LogFiles, nodeLogFiles } from '../../src/util/log-files.js';
import type { Effects } from './effects.js';

/** Every write to a journal is an effect before and after, and so is its way to stable storage. */
export function chaoticFiles(effects: Effects): LogFiles {
  return {
    open: async (path, mode) => {
      const file = await nodeLogFiles.open(path, mode);
      return mode === 'read' ? file : new ChaoticFile(file, effects);
    },
    link: (from, to) => around(effects, 'create', () => nodeLogFiles.link(from, to)),
    unlink: (path) => nodeLogFiles.unlink(path),
    syncDirectory: (path) => nodeLogFiles.syncDirectory(path),
  };
}

class ChaoticFile implements LogFile {
  readonly #file: LogFile;
  readonly #effects: Effects;
  /** What was written last. */
  #record = 'header';

  constructor(file: LogFile, effects: Effects) {
    this.#file = file;
    this.#effects = effects;
  }

  stat() {
    return this.#file.stat();
  }

  read(position: number, lengthBytes: number) {
    return this.#file.read(position, lengthBytes);
  }

  write(bytes: Uint8Array, position: number): Promise<number> {
    const text = Buffer.from(bytes).toString('latin1');
    this.#record = [...text.matchAll(/"record":"([A-Z_]+)"/g)].at(-1)?.[1] ?? 'header';
    const write = () => this.#file.write(bytes, position);
    return around(this.#effects, `write ${this.#record}`, write);
  }

  datasync(): Promise<void> {
    return around(this.#effects, `sync ${this.#record}`, () => this.#file.datasync());
  }

  sync(): Promise<void> {
    return around(this.#effects, `sync ${this.#record}`, () => this.#file.sync());
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

async function around<T>(effects: Effects, what: string, work: () => Promise<T>): Promise<T> {
  const action = effects.at(`journal ${what} before`);
  if (action?.type === 'fail') {
    throw Object.assign(new Error(`${action.code}: by order of the driver`), { code: action.code });
  }
  const answer = await work();
  effects.at(`journal ${what} after`);
  return answer;
}

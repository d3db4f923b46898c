import { closeSync, type FSWatcher, fstatSync, openSync, readSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { Readable } from 'node:stream';

/** One line a guest printed. */
export interface SerialLine {
  readonly text: string;
  /** When its newline arrived here, in milliseconds of `performance.now()`. */
  readonly atMs: number;
}

/** What one QEMU printed while the guest ran there without a break. */
export interface SerialSegment {
  /** Says where it ran, for messages. */
  readonly name: string;
  readonly lines: readonly SerialLine[];
  /** An unfinished line at the end; the guest goes on with it wherever it runs next. */
  readonly rest: string;
}

export interface WaitOptions {
  /** Milliseconds to wait at most. */
  readonly limitMs: number;
  readonly signal?: AbortSignal;
}

/**
 * Follows the serial console of one QEMU and stamps each line as it arrives.
 *
 * A file is followed by the kernel's notices, not by looking again and again, so a stamp is as
 * exact as this process is idle. A file that QEMU starts anew begins a new segment, and so does
 * `cut`.
 */
export class SerialLog implements Disposable {
  readonly name: string;
  readonly #segments: { name: string; lines: SerialLine[]; rest: string }[];
  readonly #lines: SerialLine[] = [];
  readonly #watchers = new Set<() => void>();
  #source: { read(): void; close(): void } | undefined;

  private constructor(name: string) {
    this.name = name;
    this.#segments = [{ name, lines: [], rest: '' }];
  }

  /** Follows a file, which need not exist yet; its folder must. */
  static file(path: string, name = path): SerialLog {
    const log = new SerialLog(name);
    log.#source = new FileSource(
      path,
      (bytes) => log.#add(bytes),
      () => log.cut(),
    );
    log.#source.read();
    return log;
  }

  /** Follows a stream, such as a connection to the unix socket of a QEMU serial console. */
  static stream(stream: Readable, name: string): SerialLog {
    const log = new SerialLog(name);
    const onData = (bytes: Buffer): void => log.#add(bytes);
    stream.on('data', onData);
    log.#source = { read: () => undefined, close: () => stream.off('data', onData) };
    return log;
  }

  /** Every segment so far, oldest first; empty ones are left out. */
  get segments(): readonly SerialSegment[] {
    return this.#segments.filter(({ lines, rest }) => lines.length > 0 || rest !== '');
  }

  /** Every line so far, over all segments. */
  get lines(): readonly SerialLine[] {
    return this.#lines;
  }

  /**
   * Ends the segment that grows here, if it holds anything, and begins the next. To be called when
   * the guest is known to run elsewhere.
   *
   * @returns the segment that ended.
   */
  cut(): SerialSegment {
    this.#source?.read();
    const ended = this.#current();
    if (ended.lines.length > 0 || ended.rest !== '') {
      this.#segments.push({ name: this.name, lines: [], rest: '' });
    }
    return ended;
  }

  /**
   * Waits until `probe` answers something for a line; it is asked once for each, from the first on.
   *
   * @param from index of the first line to ask for.
   * @throws Error when the limit has passed, and the signal's reason when it is aborted.
   */
  waitFor<T>(
    what: string,
    probe: (line: string) => T | undefined,
    options: WaitOptions,
    from = 0,
  ): Promise<T> {
    let next = from;
    const probeNew = (): T | undefined => {
      for (; next < this.#lines.length; next++) {
        const answer = probe(this.#lines[next]?.text ?? '');
        if (answer !== undefined) return answer;
      }
      return undefined;
    };
    return this.until(what, probeNew, options);
  }

  /** Waits until the guest's program has started everything. */
  async waitForReady(options: WaitOptions): Promise<void> {
    await this.waitFor('READY', (line) => (line === 'READY' ? true : undefined), options);
  }

  /** Waits for `count` further acknowledged writes, on whatever disk. */
  async waitForWrites(count: number, options: WaitOptions): Promise<void> {
    let missing = count;
    const countDown = (line: string): true | undefined =>
      line.startsWith('A ') && --missing <= 0 ? true : undefined;
    await this.waitFor(`${count} more writes`, countDown, options, this.#lines.length);
  }

  /** Waits until `probe` answers something; it is asked now and after everything that arrives. */
  until<T>(what: string, probe: () => T | undefined, options: WaitOptions): Promise<T> {
    const { limitMs, signal } = options;
    return new Promise<T>((resolve, reject) => {
      const finish = (end: () => void): void => {
        clearTimeout(timer);
        this.#watchers.delete(ask);
        signal?.removeEventListener('abort', abort);
        end();
      };
      const ask = (): void => {
        try {
          const answer = probe();
          if (answer !== undefined) finish(() => resolve(answer));
        } catch (error) {
          finish(() => reject(error));
        }
      };
      const abort = (): void => finish(() => reject(signal?.reason));
      const timer = setTimeout(() => {
        const last = this.lines.at(-1)?.text ?? 'nothing';
        finish(() => reject(new Error(`${this.name}: no ${what} in ${limitMs} ms, last: ${last}`)));
      }, limitMs);
      this.#watchers.add(ask);
      signal?.addEventListener('abort', abort);
      if (signal?.aborted) abort();
      else ask();
    });
  }

  /** Stops following. What was read stays readable. */
  [Symbol.dispose](): void {
    this.#source?.read();
    this.#source?.close();
    this.#source = undefined;
  }

  #current(): { name: string; lines: SerialLine[]; rest: string } {
    const last = this.#segments.at(-1);
    if (last === undefined) throw new Error('a serial log always has a segment');
    return last;
  }

  #add(bytes: Buffer): void {
    const atMs = performance.now();
    const segment = this.#current();
    const parts = (segment.rest + bytes.toString('latin1')).split('\n');
    segment.rest = parts.pop() ?? '';
    for (const part of parts) {
      const line = { text: part.replace(/\r$/, ''), atMs };
      segment.lines.push(line);
      this.#lines.push(line);
    }
    if (parts.length > 0) for (const ask of [...this.#watchers]) ask();
  }
}

/** Reads what is new in a file whenever the kernel says that it changed. */
class FileSource {
  readonly #path: string;
  readonly #onBytes: (bytes: Buffer) => void;
  readonly #onRestart: () => void;
  readonly #buffer = Buffer.alloc(65_536);
  #watcher: FSWatcher | undefined;
  #file: number | undefined;
  #offset = 0;
  #reading = false;

  constructor(path: string, onBytes: (bytes: Buffer) => void, onRestart: () => void) {
    this.#path = path;
    this.#onBytes = onBytes;
    this.#onRestart = onRestart;
    this.#awaitFile();
  }

  read(): void {
    if (this.#file === undefined || this.#reading) return;
    this.#reading = true;
    try {
      if (fstatSync(this.#file).size < this.#offset) {
        this.#offset = 0;
        this.#onRestart();
      }
      for (;;) {
        const size = readSync(this.#file, this.#buffer, 0, this.#buffer.length, this.#offset);
        if (size === 0) break;
        this.#offset += size;
        this.#onBytes(this.#buffer.subarray(0, size));
      }
    } finally {
      this.#reading = false;
    }
  }

  close(): void {
    this.#watcher?.close();
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  #awaitFile(): void {
    if (this.#open()) return;
    const name = basename(this.#path);
    this.#watcher = watch(dirname(this.#path), (_kind, changed) => {
      if (changed === name) this.#open();
    });
    // It may have appeared between the look and the watch.
    this.#open();
  }

  #open(): boolean {
    try {
      this.#file = openSync(this.#path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
      throw error;
    }
    this.#watcher?.close();
    this.#watcher = watch(this.#path, (kind) => {
      this.read();
      const gone = this.#file !== undefined && fstatSync(this.#file).nlink === 0;
      // The file was moved away or another took its name: go over to whatever has the name now.
      if (kind === 'rename' || gone) this.#reopen();
    });
    this.read();
    return true;
  }

  #reopen(): void {
    this.close();
    this.#offset = 0;
    this.#onRestart();
    try {
      this.#awaitFile();
    } catch (error) {
      // The whole folder has gone, and with it whatever could have been followed.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

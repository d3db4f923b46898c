import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';

const { O_WRONLY, O_RDONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;

/**
 * A file of lines that is put aside when it is full; one that was put aside before goes then. Both
 * are readable by their owner only. Nothing is synced: a power loss may take the last lines, and
 * the disk is left to the journals.
 */
export class RotatingFile {
  readonly #folder: string;
  readonly #name: string;
  readonly #limitBytes: number;
  #file: FileHandle | undefined;
  #sizeBytes = 0;
  /** The last write may have ended within a line. */
  #torn = false;

  /** Two files `<name>.jsonl` and `<name>.1.jsonl`, of at most `limitBytes` each. */
  constructor(folder: string, name: string, limitBytes: number) {
    this.#folder = folder;
    this.#name = name;
    this.#limitBytes = limitBytes;
  }

  /** Appends lines, each with its end. Rejects with the error of the operating system. */
  async append(lines: string): Promise<void> {
    const file = await this.#open(Buffer.byteLength(lines));
    const bytes = Buffer.from(this.#torn ? `\n${lines}` : lines);
    this.#torn = true;
    await file.appendFile(bytes);
    this.#torn = false;
    this.#sizeBytes += bytes.byteLength;
  }

  /** The lines that are there, the oldest first. Rejects with the error of the operating system. */
  async read(): Promise<string[]> {
    const parts = await Promise.all([this.#text('.1'), this.#text('')]);
    return parts.join('\n').split('\n');
  }

  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }

  async #open(moreBytes: number): Promise<FileHandle> {
    if (this.#file && this.#sizeBytes + moreBytes > this.#limitBytes) {
      await this.close();
      await rename(this.#path(''), this.#path('.1'));
    }
    if (this.#file) return this.#file;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const flags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW;
    const file = await open(this.#path(''), flags, 0o600);
    const { size } = await file.stat();
    this.#sizeBytes = size;
    this.#torn ||= size > 0;
    this.#file = file;
    return file;
  }

  async #text(part: '' | '.1'): Promise<string> {
    try {
      return await readFile(this.#path(part), { encoding: 'utf8', flag: O_RDONLY | O_NOFOLLOW });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
      throw error;
    }
  }

  #path(part: '' | '.1'): string {
    return join(this.#folder, `${this.#name}${part}.jsonl`);
  }
}

import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type DiskContent, readDisk } from '../support/blocks.js';

const POLL_MS = 10;

/** The console of one QEMU, read as far as it has come. */
interface Console {
  readonly host: string;
  readonly path: string;
  readonly startedAs: string;
  offset: number;
  rest: string;
}

interface Disk {
  newest: number;
  /** Written and perhaps not acknowledged when the guest began anew. */
  readonly inFlight: Set<number>;
  /** The newest number acknowledged for each slot. */
  readonly slots: Map<number, number>;
}

const SLOTS = 8192;

/**
 * All that one guest has printed, whichever QEMU it ran in: every number it acknowledged must come
 * once and in order, and be on the disk of the host that has the guest.
 */
export class GuestBook {
  readonly #folders: ReadonlyMap<string, string>;
  readonly #consoles = new Map<string, Console>();
  readonly #disks = new Map<number, Disk>();
  #rest = '';
  ackedWrites = 0;
  /** True while the guest's disk is bad on purpose. */
  toleratesErrors = false;

  /** @param folders The folders of consoles, by host. */
  constructor(folders: ReadonlyMap<string, string>) {
    this.#folders = folders;
  }

  /**
   * Takes in what has been printed since the last time, the QEMU that was started first coming
   * first.
   *
   * @param restarts How often the guest may have begun anew meanwhile.
   * @returns What is wrong with it, at most ten sentences.
   */
  read(restarts = 0): string[] {
    const faults: string[] = [];
    let allowed = restarts;
    this.#findConsoles();
    const consoles = [...this.#consoles.values()];
    for (const console of consoles.sort((a, b) => (a.startedAs < b.startedAs ? -1 : 1))) {
      const text = readOn(console);
      if (text === '') continue;
      const lines = (console.rest === '' ? text : console.rest + text).split('\n');
      console.rest = lines.pop() ?? '';
      for (const [index, line] of lines.entries()) {
        // The guest may have moved in the middle of a line.
        const whole = index === 0 && this.#rest !== '' && !isLine(line) ? this.#rest + line : line;
        if (isStart(whole) && this.#begun && allowed > 0) {
          allowed--;
          this.#beginAnew();
        }
        const fault = this.#take(whole);
        if (fault) faults.push(`${console.host}: ${fault}`);
      }
      this.#rest = console.rest;
    }
    return faults.slice(0, 10);
  }

  /** Resolves when the guest has printed more on this host, with the time until it did. */
  async grows(host: string, bytes: number, limitMs: number): Promise<number> {
    const startMs = performance.now();
    const size = () => this.#sizeOf(host);
    const enough = size() + bytes;
    while (size() < enough) {
      if (performance.now() - startMs > limitMs) {
        throw new Error(`The guest has written nothing on ${host} for ${limitMs} ms.`);
      }
      await delay(POLL_MS);
    }
    return performance.now() - startMs;
  }

  /**
   * Resolves with the milliseconds until the guest has printed something on any host; -1 where it
   * has not within the limit, or the signal has ended the wait.
   */
  async printsAnywhere(limitMs: number, signal: AbortSignal): Promise<number> {
    const startMs = performance.now();
    const size = () => [...this.#folders.keys()].reduce((sum, host) => sum + this.#sizeOf(host), 0);
    const before = size();
    while (size() === before) {
      if (signal.aborted || performance.now() - startMs > limitMs) return -1;
      await delay(POLL_MS);
    }
    return performance.now() - startMs;
  }

  /**
   * Compares images with what was acknowledged, also while the guest goes on writing.
   *
   * @returns What is missing or torn, in words.
   */
  async compare(paths: readonly string[]): Promise<string[]> {
    const before = new Map([...this.#disks].map(([id, { slots }]) => [id, new Map(slots)]));
    const faults: string[] = [];
    for (const path of paths) {
      const content = await readWhole(path);
      faults.push(...this.read());
      const torn = content.tornSlots;
      if (torn.length > 0) faults.push(`${path}: ${torn.length} torn blocks, first ${torn[0]}`);
      faults.push(...this.#lost(path, content, before.get(content.disk) ?? new Map()));
    }
    return faults;
  }

  get #begun(): boolean {
    return this.#disks.size > 0;
  }

  #lost(path: string, content: DiskContent, before: ReadonlyMap<number, number>): string[] {
    const disk = this.#disks.get(content.disk);
    if (!disk) return [`${path}: holds disk ${content.disk}, of which the guest said nothing`];
    const lost = [...before].filter(([slot, acknowledged]) => {
      const found = content.blocks.get(slot);
      if (found === undefined) return true;
      if (found === acknowledged || found === disk.slots.get(slot)) return false;
      if (disk.inFlight.has(found)) return false;
      return !(found === disk.newest + 1 || (found > acknowledged && found <= disk.newest));
    });
    const [first] = lost;
    if (!first) return [];
    const found = content.blocks.get(first[0]) ?? 'nothing';
    return [
      `${path}: ${lost.length} acknowledged writes lost; ${first[1]} in slot ${first[0]}, found ${found}`,
    ];
  }

  #take(line: string): string | undefined {
    const match = /^A ([0-9a-f]) ([0-9a-f]{8})\r?$/.exec(line);
    if (!match && line === 'ERROR' && this.toleratesErrors) return undefined;
    if (!match) return line.trim() === '' ? undefined : `printed ${JSON.stringify(line)}`;
    const id = Number.parseInt(match[1] ?? '', 16);
    const seq = Number.parseInt(match[2] ?? '', 16);
    const disk = this.#disks.get(id) ?? { newest: 0, inFlight: new Set(), slots: new Map() };
    this.#disks.set(id, disk);
    if (seq <= disk.newest) return `write ${seq} of disk ${id} again, after ${disk.newest}`;
    const gap = seq !== disk.newest + 1;
    const before = disk.newest;
    disk.newest = seq;
    disk.slots.set(seq % SLOTS, seq);
    this.ackedWrites++;
    return gap ? `writes of disk ${id} jump from ${before} to ${seq}` : undefined;
  }

  #beginAnew(): void {
    for (const disk of this.#disks.values()) {
      disk.inFlight.add(disk.newest + 1);
      disk.newest = 0;
    }
  }

  #findConsoles(): void {
    for (const [host, folder] of this.#folders) {
      for (const name of readdirSync(folder)) {
        const path = join(folder, name);
        if (this.#consoles.has(path)) continue;
        this.#consoles.set(path, { host, path, startedAs: name, offset: 0, rest: '' });
      }
    }
  }

  /** Bytes that the newest console of a host holds, read or not. */
  #sizeOf(host: string): number {
    this.#findConsoles();
    const own = [...this.#consoles.values()].filter((console) => console.host === host);
    return own.reduce((sum, { path }) => sum + sizeOf(path), 0);
  }
}

function isLine(line: string): boolean {
  return /^(A [0-9a-f] [0-9a-f]{8}|ERROR|BAD)$/.test(line);
}

function isStart(line: string): boolean {
  return line === 'A 0 00000001';
}

function sizeOf(path: string): number {
  return statSync(path).size;
}

function readOn(console: Console): string {
  const size = sizeOf(console.path) - console.offset;
  if (size <= 0) return '';
  const file = openSync(console.path, 'r');
  try {
    const bytes = Buffer.alloc(size);
    const count = readSync(file, bytes, 0, size, console.offset);
    console.offset += count;
    return bytes.toString('latin1', 0, count);
  } finally {
    closeSync(file);
  }
}

/** Reads an image that may be written to meanwhile: half of a block is there only for a moment. */
async function readWhole(path: string): Promise<DiskContent> {
  for (let tries = 1; ; tries++) {
    const content = await readDisk(path, { guest: 'boot-sector', slots: SLOTS });
    if (content.tornSlots.length === 0 || tries === 5) return content;
  }
}

import { setTimeout as delay } from 'node:timers/promises';
import type { BlockNode } from './block-graph.js';

/** One numbered write that the guest was told is durable. */
export interface Acknowledgement {
  readonly sequence: number;
  /** Which of the guest's writable disks, counted from 0. */
  readonly diskIndex: number;
  readonly offset: number;
}

/** What of the guest travels in RAM. */
export interface GuestState {
  readonly sequence: number;
}

/** Where a fake guest's writes go: the node, and the mirror that must have them too. */
export type GuestWrite = (node: BlockNode, offset: number, bytes: Buffer) => Promise<void>;

const SECTOR_BYTES = 512;
const FIRST_SECTOR = 64;
/** Each disk is written round and round in this many sectors. */
const SECTORS = 128;
const MAGIC = 0x31514553;
const PAUSE_MS = 4;

/**
 * A guest that writes numbered sectors to its disks, one after the other, and notes which ones were
 * acknowledged. Its only state in RAM is the next number, so that a lost write, a write done twice
 * and two guests at once all show.
 */
export class FakeGuest {
  /** Acknowledged while it ran under this QEMU, oldest first. */
  readonly acknowledged: Acknowledgement[] = [];
  readonly #disks: () => readonly BlockNode[];
  readonly #write: GuestWrite;
  #sequence = 1;
  #running = false;
  #work: Promise<void> = Promise.resolve();
  #wake = new AbortController();

  constructor(disks: () => readonly BlockNode[], write: GuestWrite) {
    this.#disks = disks;
    this.#write = write;
  }

  get state(): GuestState {
    return { sequence: this.#sequence };
  }

  load(state: GuestState): void {
    this.#sequence = state.sequence;
  }

  run(): void {
    if (this.#running) return;
    this.#running = true;
    this.#wake = new AbortController();
    this.#work = this.#work.then(() => this.#loop());
  }

  /** Stops it; resolves when its last write has ended. */
  async stop(): Promise<void> {
    this.#running = false;
    this.#wake.abort();
    await this.#work;
  }

  async #loop(): Promise<void> {
    while (this.#running) {
      const disks = this.#disks();
      const diskIndex = this.#sequence % Math.max(1, disks.length);
      const disk = disks[diskIndex];
      if (disk) {
        const sector = FIRST_SECTOR + (Math.floor(this.#sequence / disks.length) % SECTORS);
        const offset = sector * SECTOR_BYTES;
        await this.#write(disk, offset, encodeSector(this.#sequence));
        this.acknowledged.push({ sequence: this.#sequence, diskIndex, offset });
      }
      this.#sequence++;
      await delay(PAUSE_MS, undefined, { signal: this.#wake.signal, ref: false }).catch(
        () => undefined,
      );
    }
  }
}

/** Makes the content of a numbered sector: magic, number and its complement, over and over. */
function encodeSector(sequence: number): Buffer {
  const bytes = Buffer.alloc(SECTOR_BYTES);
  for (let offset = 0; offset + 12 <= SECTOR_BYTES; offset += 12) {
    bytes.writeUInt32LE(MAGIC, offset);
    bytes.writeUInt32LE(sequence, offset + 4);
    bytes.writeUInt32LE(~sequence >>> 0, offset + 8);
  }
  return bytes;
}

/** Reads the number of a sector; 0 if it was never written, undefined if it is torn. */
export function decodeSector(bytes: Buffer): number | undefined {
  const sequence = bytes.readUInt32LE(4);
  if (bytes.equals(encodeSector(sequence))) return sequence;
  return bytes.every((byte) => byte === 0) ? 0 : undefined;
}

import { open } from 'node:fs/promises';

/** What the guest of a scenario is and does; the same for every mover. */
export interface GuestPlan {
  readonly memoryMib: number;
  readonly disks: readonly DiskPlan[];
  /** Between two heartbeats, in milliseconds. */
  readonly beatMs: number;
  /** What every disk is written with. */
  readonly writes: {
    /** Between an acknowledgement and the next write. */
    readonly pauseMs: number;
    /** Of one write, 4 to 64. */
    readonly kib: number;
    /** The part of the disk that is written over and over, in MiB. */
    readonly spanMib: number;
  };
  /** What is rewritten in RAM; undefined is nothing. */
  readonly ram?: { readonly mib: number; readonly mibPerS: number };
}

/** One disk, raw, and what is in it before the guest starts. */
export interface DiskPlan {
  readonly sizeMib: number;
  /** Of random bytes. */
  readonly dataMib: number;
  /** Of zeros that were written and take room. */
  readonly zeroMib: number;
}

export const MIB = 1024 ** 2;
/** Of the part that the guest writes. */
const FIRST_BYTE = 65_536;
const SLOT_BYTES = 4096;
const CHUNK_BYTES = 4 * MIB;

/** The guest's disks by name, in the order in which it finds them. */
export function diskIds(plan: GuestPlan): string[] {
  return plan.disks.map((_disk, index) => `disk${index}`);
}

/** The slots on each disk that the guest writes. */
export function slotsOf({ writes }: GuestPlan): number {
  return (writes.spanMib * MIB) / SLOT_BYTES;
}

/** What the guest's program is told on the kernel's command line. */
export function workloadArguments(plan: GuestPlan): string {
  const { writes, ram } = plan;
  const settings = {
    disks: plan.disks.length,
    beat_ms: plan.beatMs,
    write_ms: writes.pauseMs,
    write_kib: writes.kib,
    latency: 1,
    slots: slotsOf(plan),
    ram_mib: ram?.mib ?? 0,
    ram_rate: ram?.mibPerS ?? 0,
    // A page is dirty from its first words on, and emulated guests are slow.
    ram_words: 8,
  };
  return Object.entries(settings)
    .map(([key, value]) => `drover.${key}=${value}`)
    .join(' ');
}

/** Fills an image of the right size, in place, so that its owner stays. */
export async function fillImage(path: string, plan: GuestPlan, disk: DiskPlan): Promise<void> {
  await using file = await open(path, 'r+');
  await file.truncate(disk.sizeMib * MIB);
  const begin = FIRST_BYTE + plan.writes.spanMib * MIB;
  const zeroBytes = disk.zeroMib * MIB;
  await writeAll(file, begin, zeroBytes, () => Buffer.alloc(CHUNK_BYTES));
  await writeAll(file, begin + zeroBytes, disk.dataMib * MIB, noise);
  await file.sync();
}

async function writeAll(
  file: { write(bytes: Buffer, offset: number, length: number, at: number): Promise<unknown> },
  begin: number,
  size: number,
  bytes: (at: number) => Buffer,
): Promise<void> {
  for (let done = 0; done < size; done += CHUNK_BYTES) {
    await file.write(bytes(begin + done), 0, Math.min(CHUNK_BYTES, size - done), begin + done);
  }
}

/** Bytes that cannot be compressed and that are another at each place: xorshift from there on. */
function noise(at: number): Buffer {
  const words = new Uint32Array(CHUNK_BYTES / 4);
  let x = (at ^ 0x9e3779b9) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return Buffer.from(words.buffer);
}

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { writeDurably } from '../util/durable-file.js';
import { readForeign } from '../util/foreign-files.js';
import type { DiskServerAddress, RamServerAddress } from './launch-spec.js';

const place = {
  transport: z.enum(['direct', 'stream']),
  host: z.string(),
  address: z.string(),
  port: z.number(),
  pskIdentity: z.string(),
};

/** What QEMU does not tell of its NBD server. Keys are in files of their own. */
const diskSchema = z.object({
  ...place,
  exports: z.array(
    z
      .object({ diskId: z.string(), exportName: z.string() })
      .transform((known) => ({ ...known, ticket: '' })),
  ),
});

/** The same of what takes its RAM, with the ticket: the next life of the agent expects it again. */
const ramSchema = z.object({ ...place, ticket: z.string() });

const DISK_FILE = 'disk-server.json';
const RAM_FILE = 'ram-server.json';
const LIMIT_BYTES = 64 * 1024;

/** Notes in the domain's private folder where its NBD server listens. */
export async function writeServerFile(
  directory: string,
  { psk: _secret, exports, ...known }: DiskServerAddress,
): Promise<void> {
  const named = exports.map(({ diskId, exportName }) => ({ diskId, exportName }));
  await write(directory, DISK_FILE, { ...known, exports: named });
}

/** Reads the note; undefined where there is none that makes sense. */
export async function readServerFile(
  directory: string,
): Promise<Omit<DiskServerAddress, 'psk'> | undefined> {
  return await read(directory, DISK_FILE, diskSchema);
}

/** Notes in the domain's private folder where its QEMU takes RAM. */
export async function writeRamFile(
  directory: string,
  { psk: _secret, ...known }: RamServerAddress,
): Promise<void> {
  await write(directory, RAM_FILE, known);
}

/** Reads the note; undefined where there is none that makes sense. */
export async function readRamFile(
  directory: string,
): Promise<Omit<RamServerAddress, 'psk'> | undefined> {
  return await read(directory, RAM_FILE, ramSchema);
}

/** Removes the note. */
export async function removeRamFile(directory: string): Promise<void> {
  await rm(join(directory, RAM_FILE), { force: true });
}

async function write(directory: string, file: string, known: object): Promise<void> {
  await writeDurably(join(directory, file), `${JSON.stringify(known)}\n`);
}

async function read<T>(
  directory: string,
  file: string,
  schema: z.ZodType<T>,
): Promise<T | undefined> {
  try {
    const text = await readForeign(join(directory, file), LIMIT_BYTES);
    return schema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

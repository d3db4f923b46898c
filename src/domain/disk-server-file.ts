import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { writeDurably } from '../util/durable-file.js';
import type { DiskServerAddress } from './launch-spec.js';

/** What QEMU does not tell of its NBD server. The key is in a file of its own. */
const serverSchema = z.object({
  address: z.string(),
  port: z.number(),
  pskIdentity: z.string(),
  exports: z.array(z.object({ diskId: z.string(), exportName: z.string() })),
});

const FILE = 'disk-server.json';

/** Notes in the domain's private folder where its NBD server listens. */
export async function writeServerFile(
  directory: string,
  { psk: _secret, ...known }: DiskServerAddress,
): Promise<void> {
  await writeDurably(join(directory, FILE), `${JSON.stringify(known)}\n`);
}

/** Reads the note; undefined where there is none that makes sense. */
export async function readServerFile(
  directory: string,
): Promise<Omit<DiskServerAddress, 'psk'> | undefined> {
  try {
    const text = await readFile(join(directory, FILE), 'utf8');
    return serverSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

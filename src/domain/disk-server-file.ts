import { join } from 'node:path';
import { z } from 'zod';
import { writeDurably } from '../util/durable-file.js';
import { readForeign } from '../util/foreign-files.js';
import type { DiskServerAddress } from './launch-spec.js';

/** What QEMU does not tell of its NBD server. The key is in a file of its own. */
const serverSchema = z.object({
  address: z.string(),
  port: z.number(),
  pskIdentity: z.string(),
  exports: z.array(z.object({ diskId: z.string(), exportName: z.string() })),
});

const FILE = 'disk-server.json';
const LIMIT_BYTES = 64 * 1024;

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
    const text = await readForeign(join(directory, FILE), LIMIT_BYTES);
    return serverSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { writeDurably } from '../util/durable-file.js';

/**
 * Counts the lives of this agent: one more than the file says, and the file says so before it is
 * used.
 */
export async function nextEpoch(path: string): Promise<number> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '0';
    throw error;
  });
  const epoch = Number(text) + 1;
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeDurably(path, `${epoch}\n`);
  return epoch;
}

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Kernel } from './host-settings.js';

/** Digests of files that have not changed since; few files are ever asked for. */
const cache = new Map<string, { readonly version: string; readonly sha256: string }>();

/** The SHA-256 of a file in hex. Kept in memory until the file's size or time of change differ. */
export async function fileSha256(
  path: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<string> {
  const { ino, size, mtimeMs, ctimeMs } = await stat(path);
  const version = `${ino}:${size}:${mtimeMs}:${ctimeMs}`;
  const known = cache.get(path);
  if (known?.version === version) return known.sha256;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 ** 2, ...options })) {
    hash.update(chunk as Buffer);
  }
  const sha256 = hash.digest('hex');
  cache.set(path, { version, sha256 });
  return sha256;
}

/**
 * The digest of a kernel as a launch spec carries it: of the kernel and its initial RAM disk,
 * joined by `+`.
 */
export async function kernelSha256(
  kernel: Kernel,
  options: { readonly signal?: AbortSignal } = {},
): Promise<string> {
  const digests = [await fileSha256(kernel.path, options)];
  if (kernel.initrdPath !== undefined) digests.push(await fileSha256(kernel.initrdPath, options));
  return digests.join('+');
}

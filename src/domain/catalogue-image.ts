import { lstat } from 'node:fs/promises';
import type { ImageTool } from '../process/qemu-img.js';
import type { ImageFormat } from '../spec/domain-spec.js';
import { DomainError } from './errors.js';
import type { CatalogueImage } from './pools.js';
import type { WaitOptions } from './types.js';

/** A file of a pool's catalogue. */
export interface CatalogueFile {
  readonly pool: string;
  readonly name: string;
  /** In a folder that nobody but the agent writes to. */
  readonly path: string;
  readonly format: ImageFormat;
}

/**
 * Looks at an image of a catalogue.
 *
 * @throws DomainError `MEDIA_MISSING` where it is no plain file, cannot be read, or depends on
 *   another file
 */
export async function readCatalogueImage(
  { pool, name, path, format }: CatalogueFile,
  images: ImageTool,
  options: WaitOptions,
): Promise<CatalogueImage> {
  const facts = { pool, image: name };
  const missing = (said: string, more: { cause?: unknown; hint?: string } = {}) =>
    new DomainError('MEDIA_MISSING', said, { facts, ...more });
  const status = await lstat(path).catch(() => undefined);
  if (!status?.isFile()) {
    throw missing(`The pool ${pool} has no file images/${name} (links are not followed).`);
  }
  const info = await images.info(path, format, options).catch((cause: unknown) => {
    options.signal.throwIfAborted();
    throw missing(`images/${name} of the pool ${pool} cannot be read as ${format}.`, { cause });
  });
  if (info.hasBackingFile || info.hasDataFile) {
    // Such an image names a file of the host in a header that anybody may have written.
    throw missing(`images/${name} of the pool ${pool} depends on another file.`, {
      hint: 'Flatten it with `qemu-img convert`.',
    });
  }
  const { virtualSizeBytes, allocatedBytes } = info;
  return { driver: 'file', path, format, sizeBytes: virtualSizeBytes, allocatedBytes };
}

import { constants } from 'node:fs';
import { lstat, open, rename, statfs, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageTool } from '../process/qemu-img.js';
import type { ImageFormat } from '../spec/domain-spec.js';
import { formatSize } from '../util/bytes.js';
import { HeldFolder } from '../util/held-folder.js';
import { readCatalogueImage } from './catalogue-image.js';
import { DomainError } from './errors.js';
import type { PoolFacts } from './manager.js';
import {
  assertOwnFolder,
  assertPlainName,
  bytesOf,
  probeDirectIo,
  tombstonesOf,
} from './pool-folder.js';
import type { CatalogueImage, ImageLocation, NewImage, Pool, Reservation } from './pools.js';
import type { WaitOptions } from './types.js';

/** A directory to use as a pool. */
export interface DirectoryPoolSettings {
  readonly name: string;
  /**
   * Absolute, and there already: a pool whose file system is not mounted must not be made anew
   * below it.
   */
  readonly path: string;
  readonly shared: boolean;
}

const CATALOGUE = 'images';
const TOMBSTONES = '.tombstones';
/** Room that is never given away: a full file system stops every guest on it at once. */
const FLOOR_LIMIT_BYTES = 64 * 1024 ** 2;

/**
 * A pool of image files: `<pool>/<domain uuid>/<disk id>.<format>`, the catalogue in `images/`, and
 * what a migration leaves behind in `.tombstones/<domain uuid>-g<generation>/`.
 */
export class DirectoryPool implements Pool {
  readonly name: string;
  readonly shared: boolean;
  readonly readsAsZeros = true;
  readonly directIo: boolean;
  readonly path: string;
  readonly #images: ImageTool;
  readonly #reservations = new Set<{ readonly uuid: string; readonly sizeBytes: number }>();
  /** Which folder it was when the agent started. */
  readonly #identity: string;

  private constructor(
    settings: DirectoryPoolSettings,
    images: ImageTool,
    found: { readonly directIo: boolean; readonly identity: string },
  ) {
    this.name = settings.name;
    this.shared = settings.shared;
    this.path = settings.path;
    this.#images = images;
    this.directIo = found.directIo;
    this.#identity = found.identity;
  }

  /**
   * Opens a pool and makes its folders.
   *
   * @throws DomainError `DISK_TARGET_MISSING` where the directory cannot be used, or somebody else
   *   could put another one in its place
   */
  static async open(settings: DirectoryPoolSettings, images: ImageTool): Promise<DirectoryPool> {
    const { path, shared } = settings;
    try {
      await using folder = await HeldFolder.open(path);
      // Behind a file server, root may be somebody else.
      await assertOwnFolder(path, { anyOwner: shared });
      for (const name of [CATALOGUE, TOMBSTONES]) {
        await folder.makeFolder(name).catch(unlessThere);
        await assertOwnFolder(join(path, name), { anyOwner: shared });
      }
      const directIo = await probeDirectIo(folder);
      return new DirectoryPool(settings, images, { directIo, identity: await folder.identity() });
    } catch (cause) {
      if (cause instanceof DomainError) throw cause;
      throw new DomainError(
        'DISK_TARGET_MISSING',
        `The directory ${path} of the pool ${settings.name} cannot be used.`,
        {
          cause,
          hint: 'Make the directory, or mount its file system, and let the agent write to it.',
        },
      );
    }
  }

  async facts(): Promise<PoolFacts> {
    const { name, shared, readsAsZeros } = this;
    return { name, shared, ...(await this.#room()), readsAsZeros };
  }

  async reserve(uuid: string, sizeBytes: number): Promise<Reservation> {
    // Entered before anything is awaited, so that two callers at once cannot be promised the same
    // bytes.
    const entry = { uuid, sizeBytes };
    this.#reservations.add(entry);
    const { availableBytes } = await this.#room(entry);
    if (sizeBytes > availableBytes) {
      this.#reservations.delete(entry);
      const [left, needed] = [formatSize(availableBytes), formatSize(sizeBytes)];
      throw new DomainError(
        'DISK_NO_SPACE',
        `The pool ${this.name} has ${left} left; ${needed} are needed.`,
        { facts: { pool: this.name, required_bytes: sizeBytes, available_bytes: availableBytes } },
      );
    }
    return { release: () => void this.#reservations.delete(entry) };
  }

  note(uuid: string, sizeBytes: number): Reservation {
    const entry = { uuid, sizeBytes };
    this.#reservations.add(entry);
    return { release: () => void this.#reservations.delete(entry) };
  }

  async catalogueImage(
    name: string,
    format: ImageFormat,
    options: WaitOptions,
  ): Promise<CatalogueImage> {
    const path = join(this.path, CATALOGUE, assertPlainName(name));
    return await readCatalogueImage({ pool: this.name, name, path, format }, this.#images, options);
  }

  async hasDomain(uuid: string): Promise<boolean> {
    await using pool = await this.#open();
    return await pool.has(assertPlainName(uuid));
  }

  async addDomain(uuid: string): Promise<void> {
    await using pool = await this.#open();
    await pool.makeFolder(assertPlainName(uuid)).catch((cause: unknown) => {
      throw this.#ioError(`The folder ${this.#folder(uuid)} could not be made`, cause);
    });
    await pool.sync().catch(async (cause: unknown) => {
      await pool.removeFolder(uuid).catch(() => undefined);
      throw this.#ioError(`The folder ${this.#folder(uuid)} could not be kept`, cause);
    });
  }

  async createImage(image: NewImage, options: WaitOptions): Promise<ImageLocation> {
    const location = this.locate(image.uuid, image.diskId, image.format);
    await this.#makeFile(image, image.format === 'raw' ? image.sizeBytes : 0);
    if (image.format !== 'raw') {
      await this.#images
        .create(location.path, image.format, image.sizeBytes, options)
        .catch((cause: unknown) => this.#failImage(location, options, cause));
    }
    return location;
  }

  async copyImage(
    image: NewImage,
    from: CatalogueImage,
    options: WaitOptions,
  ): Promise<ImageLocation> {
    const location = this.locate(image.uuid, image.diskId, image.format);
    await this.#makeFile(image, 0);
    try {
      await this.#images.convert(from.path, from.format, location.path, image.format, options);
      if (image.sizeBytes > from.sizeBytes) {
        await this.#images.grow(location.path, image.format, image.sizeBytes, options);
      }
    } catch (cause) {
      return this.#failImage(location, options, cause);
    }
    return location;
  }

  locate(uuid: string, diskId: string, format: ImageFormat): ImageLocation {
    const path = join(this.#folder(uuid), `${assertPlainName(diskId)}.${format}`);
    return { driver: 'file', path, format };
  }

  async allocatedBytes(location: ImageLocation): Promise<number> {
    const status = await lstat(location.path).catch(() => undefined);
    return status?.isFile() ? status.blocks * 512 : 0;
  }

  async removeDomain(uuid: string): Promise<void> {
    await using pool = await this.#open();
    await pool.removeFolder(assertPlainName(uuid));
    await pool.sync();
  }

  async bury(uuid: string, generation: number): Promise<void> {
    const name = `${assertPlainName(uuid)}-g${generation}`;
    await using pool = await this.#open();
    if (!(await pool.has(uuid))) return;
    // Before the rename, because there may be only one: the images at hand are the newest.
    await this.removeTombstone(uuid);
    await using tombstones = await pool.folder(TOMBSTONES);
    await rename(pool.path(uuid), tombstones.path(name));
    await tombstones.sync();
    await pool.sync();
  }

  async tombstoneBytes(uuid: string): Promise<number> {
    await using pool = await this.#open();
    await using tombstones = await pool.folder(TOMBSTONES);
    const sizes = (await tombstonesOf(uuid, tombstones)).map((name) => bytesOf(tombstones, name));
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  }

  async removeTombstone(uuid: string): Promise<void> {
    await using pool = await this.#open();
    await using tombstones = await pool.folder(TOMBSTONES);
    for (const name of await tombstonesOf(uuid, tombstones)) await tombstones.removeFolder(name);
  }

  #folder(uuid: string): string {
    return join(this.path, assertPlainName(uuid));
  }

  async #room(except?: object): Promise<{ sizeBytes: number; availableBytes: number }> {
    // What reserved images take already is missing from the free space, and must not count twice.
    await using pool = await this.#open();
    const others = [...this.#reservations].filter((reservation) => reservation !== except);
    const open = others.map(async ({ uuid, sizeBytes }) =>
      Math.max(0, sizeBytes - (await bytesOf(pool, assertPlainName(uuid)))),
    );
    const reservedBytes = (await Promise.all(open)).reduce((sum, size) => sum + size, 0);
    const { bsize, blocks, bavail } = await statfs(pool.path('.'));
    const sizeBytes = bsize * blocks;
    const floorBytes = Math.min(FLOOR_LIMIT_BYTES, Math.floor(sizeBytes / 100));
    return { sizeBytes, availableBytes: Math.max(0, bsize * bavail - floorBytes - reservedBytes) };
  }

  async #makeFile({ uuid, diskId, format }: NewImage, sizeBytes: number): Promise<void> {
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    try {
      await using pool = await this.#open();
      await using folder = await pool.folder(assertPlainName(uuid));
      const path = folder.path(`${assertPlainName(diskId)}.${format}`);
      await using file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      await file.truncate(sizeBytes);
      await folder.sync();
    } catch (cause) {
      throw this.#ioError(
        `The image of ${diskId} in ${this.#folder(uuid)} could not be made`,
        cause,
      );
    }
  }

  /** Holds the pool's folder, which must be the one that the agent started with. */
  async #open(): Promise<HeldFolder> {
    const folder = await HeldFolder.open(this.path).catch(() => undefined);
    if (folder && (this.shared || (await folder.identity()) === this.#identity)) return folder;
    await folder?.[Symbol.asyncDispose]();
    throw new DomainError(
      'DISK_TARGET_MISSING',
      `The directory ${this.path} of the pool ${this.name} is not the one of the agent's start.`,
      { hint: 'Mount its file system again, and restart the agent.', facts: { pool: this.name } },
    );
  }

  async #failImage(location: ImageLocation, options: WaitOptions, cause: unknown): Promise<never> {
    await unlink(location.path).catch(() => undefined);
    options.signal.throwIfAborted();
    throw this.#ioError(`The image ${location.path} could not be made`, cause);
  }

  #ioError(what: string, cause: unknown): DomainError {
    if (cause instanceof DomainError) return cause;
    const code = (cause as NodeJS.ErrnoException).code;
    return new DomainError('DISK_IO_ERROR', `${what}${code ? ` (${code})` : ''}.`, {
      cause,
      facts: { pool: this.name },
    });
  }
}

function unlessThere(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
}

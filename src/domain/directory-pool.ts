import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, mkdir, open, readdir, rename, rm, statfs, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ImageTool } from '../process/qemu-img.js';
import type { ImageFormat } from '../spec/domain-spec.js';
import { formatSize } from '../util/bytes.js';
import { syncDirectory } from '../util/durable-file.js';
import { DomainError } from './errors.js';
import type { PoolFacts } from './manager.js';
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
  readonly #path: string;
  readonly #images: ImageTool;
  readonly #reservations = new Set<{ readonly uuid: string; readonly sizeBytes: number }>();

  private constructor(settings: DirectoryPoolSettings, images: ImageTool, directIo: boolean) {
    this.name = settings.name;
    this.shared = settings.shared;
    this.#path = settings.path;
    this.#images = images;
    this.directIo = directIo;
  }

  /**
   * Opens a pool and makes its folders.
   *
   * @throws DomainError `DISK_TARGET_MISSING` where the directory cannot be used
   */
  static async open(settings: DirectoryPoolSettings, images: ImageTool): Promise<DirectoryPool> {
    try {
      if (!(await lstat(settings.path)).isDirectory()) throw new Error('it is not a directory');
      for (const folder of [CATALOGUE, TOMBSTONES]) {
        await mkdir(join(settings.path, folder), { recursive: true, mode: 0o700 });
      }
      return new DirectoryPool(settings, images, await probeDirectIo(settings.path));
    } catch (cause) {
      throw new DomainError(
        'DISK_TARGET_MISSING',
        `The directory ${settings.path} of the pool ${settings.name} cannot be used.`,
        {
          cause,
          hint: 'Make the directory, or mount its file system, and let the agent write to it.',
        },
      );
    }
  }

  async facts(): Promise<PoolFacts> {
    const { bsize, blocks } = await statfs(this.#path);
    return {
      name: this.name,
      shared: this.shared,
      sizeBytes: bsize * blocks,
      availableBytes: await this.#availableBytes(),
      readsAsZeros: this.readsAsZeros,
    };
  }

  async reserve(uuid: string, sizeBytes: number): Promise<Reservation> {
    // Entered before anything is awaited, so that two callers at once cannot be promised the same
    // bytes.
    const entry = { uuid, sizeBytes };
    this.#reservations.add(entry);
    const availableBytes = await this.#availableBytes(entry);
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
    const path = join(this.#path, CATALOGUE, assertPlainName(name));
    const facts = { pool: this.name, image: name };
    const status = await lstat(path).catch(() => undefined);
    if (!status?.isFile()) {
      throw new DomainError(
        'MEDIA_MISSING',
        `The pool ${this.name} has no file images/${name} (links are not followed).`,
        { facts },
      );
    }
    const info = await this.#images.info(path, format, options).catch((cause: unknown) => {
      options.signal.throwIfAborted();
      throw new DomainError(
        'MEDIA_MISSING',
        `images/${name} of the pool ${this.name} cannot be read as ${format}.`,
        { cause, facts },
      );
    });
    if (info.hasBackingFile || info.hasDataFile) {
      // Such an image names a file of the host in a header that anybody may have written.
      throw new DomainError(
        'MEDIA_MISSING',
        `images/${name} of the pool ${this.name} depends on another file.`,
        { facts, hint: 'Flatten it with `qemu-img convert`.' },
      );
    }
    const { virtualSizeBytes, allocatedBytes } = info;
    return { driver: 'file', path, format, sizeBytes: virtualSizeBytes, allocatedBytes };
  }

  async hasDomain(uuid: string): Promise<boolean> {
    return (await lstat(this.#folder(uuid)).catch(() => undefined)) !== undefined;
  }

  async addDomain(uuid: string): Promise<void> {
    await mkdir(this.#folder(uuid), { mode: 0o700 }).catch((cause: unknown) => {
      throw this.#ioError(`The folder ${this.#folder(uuid)} could not be made`, cause);
    });
    await syncDirectory(this.#path);
  }

  async createImage(image: NewImage, options: WaitOptions): Promise<ImageLocation> {
    const location = this.locate(image.uuid, image.diskId, image.format);
    await this.#makeFile(location.path, image.format === 'raw' ? image.sizeBytes : 0);
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
    await this.#makeFile(location.path, 0);
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
    return allocatedBytes(location.path);
  }

  async removeDomain(uuid: string): Promise<void> {
    await rm(this.#folder(uuid), { recursive: true, force: true });
    await syncDirectory(this.#path);
  }

  async bury(uuid: string, generation: number): Promise<void> {
    const name = `${assertPlainName(uuid)}-g${generation}`;
    if (!(await this.hasDomain(uuid))) return;
    // Before the rename, because there may be only one: the images at hand are the newest.
    await this.removeTombstone(uuid);
    await rename(this.#folder(uuid), join(this.#path, TOMBSTONES, name));
    await syncDirectory(join(this.#path, TOMBSTONES));
    await syncDirectory(this.#path);
  }

  async tombstoneBytes(uuid: string): Promise<number> {
    const sizes = (await this.#tombstones(uuid)).map(folderBytes);
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  }

  async removeTombstone(uuid: string): Promise<void> {
    for (const path of await this.#tombstones(uuid)) {
      await rm(path, { recursive: true, force: true });
    }
  }

  async #tombstones(uuid: string): Promise<string[]> {
    const folder = join(this.#path, TOMBSTONES);
    const names = await readdir(folder);
    return names.filter((name) => name.startsWith(`${uuid}-g`)).map((name) => join(folder, name));
  }

  #folder(uuid: string): string {
    return join(this.#path, assertPlainName(uuid));
  }

  async #availableBytes(except?: object): Promise<number> {
    // What reserved images take already is missing from the free space, and must not count twice.
    const others = [...this.#reservations].filter((reservation) => reservation !== except);
    const open = others.map(async ({ uuid, sizeBytes }) =>
      Math.max(0, sizeBytes - (await folderBytes(this.#folder(uuid)))),
    );
    const reservedBytes = (await Promise.all(open)).reduce((sum, size) => sum + size, 0);
    const { bsize, blocks, bavail } = await statfs(this.#path);
    const floorBytes = Math.min(FLOOR_LIMIT_BYTES, Math.floor((bsize * blocks) / 100));
    return Math.max(0, bsize * bavail - floorBytes - reservedBytes);
  }

  async #makeFile(path: string, sizeBytes: number): Promise<void> {
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    try {
      await using file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      await file.truncate(sizeBytes);
      await syncDirectory(dirname(path));
    } catch (cause) {
      throw this.#ioError(`The image ${path} could not be made`, cause);
    }
  }

  async #failImage(location: ImageLocation, options: WaitOptions, cause: unknown): Promise<never> {
    await unlink(location.path).catch(() => undefined);
    options.signal.throwIfAborted();
    throw this.#ioError(`The image ${location.path} could not be made`, cause);
  }

  #ioError(what: string, cause: unknown): DomainError {
    const code = (cause as NodeJS.ErrnoException).code;
    return new DomainError('DISK_IO_ERROR', `${what}${code ? ` (${code})` : ''}.`, {
      cause,
      facts: { pool: this.name },
    });
  }
}

/** Storage that a file takes; 0 for one that is not there. */
async function allocatedBytes(path: string): Promise<number> {
  const status = await lstat(path).catch(() => undefined);
  return status ? status.blocks * 512 : 0;
}

async function folderBytes(path: string): Promise<number> {
  const names = await readdir(path).catch(() => []);
  const sizes = await Promise.all(names.map((name) => allocatedBytes(join(path, name))));
  return sizes.reduce((sum, size) => sum + size, 0);
}

// Names reach this layer checked already; a path that leaves the pool would be so bad that it is
// checked again.
function assertPlainName(name: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$/.test(name)) return name;
  throw new DomainError('REQUEST_INVALID', `${JSON.stringify(name)} is not a plain file name.`);
}

async function probeDirectIo(folder: string): Promise<boolean> {
  const path = join(folder, `.probe-${randomBytes(6).toString('hex')}`);
  const { O_RDWR, O_CREAT, O_EXCL, O_DIRECT } = constants;
  try {
    await using file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT, 0o600);
    return (await file.stat()).isFile();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return false;
    throw error;
  } finally {
    await unlink(path).catch(() => undefined);
  }
}

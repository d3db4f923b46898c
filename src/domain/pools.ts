import type { ImageFormat } from '../spec/domain-spec.js';
import type { PoolFacts } from './manager.js';
import type { WaitOptions } from './types.js';

/** Where the bytes of one image are, in the words of QEMU's block layer. */
export interface ImageLocation {
  /** The driver of the lowest block node. */
  readonly driver: 'file';
  /** Absolute. */
  readonly path: string;
  readonly format: ImageFormat;
}

/** What is known of an image of the catalogue. */
export interface CatalogueImage extends ImageLocation {
  /** The guest-visible size. */
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
}

/** An image to make in a pool. */
export interface NewImage {
  readonly uuid: string;
  readonly diskId: string;
  readonly format: ImageFormat;
  readonly sizeBytes: number;
}

/** Bytes that nobody else is promised until they are given back. */
export interface Reservation {
  /** Gives them back. Repeating it is harmless. */
  release(): void;
}

/** A place for images. One kind exists; others (volume groups, ...) take the same interface. */
export interface Pool {
  readonly name: string;
  /** The same images are visible at the same place on other hosts. */
  readonly shared: boolean;
  /** Absolute. In it are a folder for each domain's images and the catalogue `images`. */
  readonly path: string;
  /** False where a new image may hold old bytes, so that zeros must be written too. */
  readonly readsAsZeros: boolean;
  /** True where the host's page cache can be passed by. */
  readonly directIo: boolean;
  /** @throws DomainError `DISK_TARGET_MISSING` where the pool has gone */
  facts(): Promise<PoolFacts>;
  /**
   * Promises room for a domain's images until released; what they take meanwhile counts towards it.
   *
   * @throws DomainError `DISK_NO_SPACE` with `required_bytes` and `available_bytes`
   */
  reserve(uuid: string, sizeBytes: number): Promise<Reservation>;
  /** The same for images that are there already, which nothing can refuse. */
  note(uuid: string, sizeBytes: number): Reservation;
  /**
   * Finds an image of the catalogue by its plain name.
   *
   * @throws DomainError `MEDIA_MISSING` where there is no such file, or it depends on another file
   */
  catalogueImage(name: string, format: ImageFormat, options: WaitOptions): Promise<CatalogueImage>;
  /** True where there is a place for a domain's images already. */
  hasDomain(uuid: string): Promise<boolean>;
  /**
   * Makes the place for a domain's images.
   *
   * @throws DomainError `DISK_IO_ERROR` where it exists already
   */
  addDomain(uuid: string): Promise<void>;
  /**
   * Makes an image that reads as zeros.
   *
   * @throws DomainError `DISK_IO_ERROR` where it exists already
   */
  createImage(image: NewImage, options: WaitOptions): Promise<ImageLocation>;
  /** Makes an image with the contents of one of the catalogue, at least as large as that. */
  copyImage(image: NewImage, from: CatalogueImage, options: WaitOptions): Promise<ImageLocation>;
  /** Where an image of a domain is, or would be. */
  locate(uuid: string, diskId: string, format: ImageFormat): ImageLocation;
  /** Storage that an image takes now; 0 for one that is not there. */
  allocatedBytes(location: ImageLocation): Promise<number>;
  /** Removes a domain's images. Repeating it is harmless. */
  removeDomain(uuid: string): Promise<void>;
  /** Sets a domain's images aside as its only tombstone. Repeating it is harmless. */
  bury(uuid: string, generation: number): Promise<void>;
  /**
   * Storage that a domain's tombstone takes.
   *
   * @throws DomainError `DISK_TARGET_MISSING` where the pool has gone
   */
  tombstoneBytes(uuid: string): Promise<number>;
  /** Removes a domain's tombstone, if there is one. */
  removeTombstone(uuid: string): Promise<void>;
}

/**
 * Storage that an image may take which is to hold so many allocated bytes: a little more, because
 * file systems and formats keep books of their own.
 */
export function roomFor(allocatedBytes: number): number {
  return allocatedBytes + Math.ceil(allocatedBytes / 100) + 1024 ** 2;
}

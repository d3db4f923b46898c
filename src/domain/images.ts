import { formatSize } from '../util/bytes.js';
import type { UndoStack } from '../util/undo-stack.js';
import { DomainError } from './errors.js';
import type { CatalogueImage, NewImage, Pool, Reservation } from './pools.js';
import type { WaitOptions } from './types.js';

/**
 * With less room than this, and than this part of the pool, no image may take more than was
 * reserved for it: what is written until somebody looks again must not stop the guests there.
 */
const LOW_LIMIT_BYTES = 1024 ** 3;
const LOW_PART = 20;

/** An image to make, and where. */
export interface ImageWish {
  readonly pool: Pool;
  readonly image: NewImage;
  /** Where its contents come from; zeros if undefined. */
  readonly from: CatalogueImage | undefined;
  /** Storage that it will probably take. */
  readonly roomBytes: number;
}

/**
 * Reserves room for all images, pool by pool.
 *
 * @throws DomainError `DISK_NO_SPACE` for the first pool that has too little; nothing is reserved
 * then
 */
export async function reserveRoom(
  uuid: string,
  wishes: readonly ImageWish[],
): Promise<Reservation> {
  const reservations: Reservation[] = [];
  const release = () => {
    for (const reservation of reservations) reservation.release();
  };
  try {
    for (const [pool, own] of byPool(wishes)) {
      const roomBytes = own.reduce((sum, wish) => sum + wish.roomBytes, 0);
      reservations.push(await pool.reserve(uuid, roomBytes));
    }
  } catch (error) {
    release();
    throw error;
  }
  return { release };
}

/** The same for images that an earlier life of the agent has made. */
export function noteRoom(uuid: string, wishes: readonly ImageWish[]): Reservation {
  const reservations = wishes.map(({ pool, roomBytes }) => pool.note(uuid, roomBytes));
  return {
    release: () => {
      for (const reservation of reservations) reservation.release();
    },
  };
}

/** How the images of an incoming domain stand. */
export interface Written {
  /** Changes as blocks arrive. */
  readonly mark: string;
  /** `DISK_NO_SPACE` where they take more than was reserved and the pool is nearly full. */
  readonly short: DomainError | undefined;
}

/** Reads that; see IncomingDomain. */
export async function readWritten(wishes: readonly ImageWish[]): Promise<Written> {
  const taken = await allocatedBytes(wishes);
  return { mark: JSON.stringify(taken), short: await findShortage(wishes, taken) };
}

/** What is reserved is by the word of the source, which may be wrong or a lie. */
async function findShortage(
  wishes: readonly ImageWish[],
  taken: Readonly<Record<string, number>>,
): Promise<DomainError | undefined> {
  for (const [pool, own] of byPool(wishes)) {
    const reservedBytes = own.reduce((sum, { roomBytes }) => sum + roomBytes, 0);
    const takenBytes = own.reduce((sum, { image }) => sum + (taken[image.diskId] ?? 0), 0);
    if (takenBytes <= reservedBytes) continue;
    const { sizeBytes, availableBytes } = await pool.facts();
    if (availableBytes >= Math.min(LOW_LIMIT_BYTES, sizeBytes / LOW_PART)) continue;
    const [took, reserved] = [formatSize(takenBytes), formatSize(reservedBytes)];
    return new DomainError(
      'DISK_NO_SPACE',
      `The images take ${took} of the pool ${pool.name}, where ${reserved} were reserved by what the source said, and the pool is nearly full.`,
      {
        side: 'destination',
        facts: { pool: pool.name, required_bytes: takenBytes, available_bytes: availableBytes },
      },
    );
  }
  return undefined;
}

/** Storage that each image takes now, by disk id. */
export async function allocatedBytes(
  wishes: readonly ImageWish[],
): Promise<Readonly<Record<string, number>>> {
  const sizes = wishes.map(async ({ pool, image }) => {
    const location = pool.locate(image.uuid, image.diskId, image.format);
    return [image.diskId, await pool.allocatedBytes(location)] as const;
  });
  return Object.fromEntries(await Promise.all(sizes));
}

/**
 * Makes all images. What was made is removed by `undo`, which therefore has to be run when this
 * throws.
 */
export async function makeImages(
  uuid: string,
  wishes: readonly ImageWish[],
  undo: UndoStack,
  options: WaitOptions,
): Promise<void> {
  for (const [pool, own] of byPool(wishes)) {
    await pool.addDomain(uuid);
    undo.defer(`remove the images of ${uuid} in ${pool.name}`, () => pool.removeDomain(uuid));
    for (const { image, from } of own) {
      options.signal.throwIfAborted();
      if (from) await pool.copyImage(image, from, options);
      else await pool.createImage(image, options);
    }
  }
}

/** The pools that images are wished in. */
export function poolsOf(wishes: readonly ImageWish[]): readonly Pool[] {
  return [...byPool(wishes).keys()];
}

function byPool(wishes: readonly ImageWish[]): ReadonlyMap<Pool, readonly ImageWish[]> {
  const pools = new Map<Pool, ImageWish[]>();
  for (const wish of wishes) pools.set(wish.pool, [...(pools.get(wish.pool) ?? []), wish]);
  return pools;
}

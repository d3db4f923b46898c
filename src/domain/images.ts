import type { UndoStack } from '../util/undo-stack.js';
import type { CatalogueImage, NewImage, Pool, Reservation } from './pools.js';
import type { WaitOptions } from './types.js';

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

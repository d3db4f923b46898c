import { describe, expect, it } from 'vitest';
import { type ImageWish, readWritten } from '../../../src/domain/images.js';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

/** Images in a pool of 100 GiB, each of which was promised 10 MiB. */
function wishes(takenBytes: readonly number[], availableBytes: number): ImageWish[] {
  const pool = {
    name: 'default',
    locate: (_uuid: string, diskId: string) => ({ path: diskId }),
    allocatedBytes: async ({ path }: { path: string }) => takenBytes[Number(path)],
    facts: async () => ({ sizeBytes: 100 * GIB, availableBytes }),
  };
  return takenBytes.map((_, index) => ({
    pool: pool as unknown as ImageWish['pool'],
    image: { uuid: 'u', diskId: String(index), format: 'raw', sizeBytes: GIB },
    from: undefined,
    roomBytes: 10 * MIB,
  }));
}

describe('the images of an incoming domain', () => {
  it('may take more than was reserved where the pool has room', async () => {
    expect((await readWritten(wishes([9 * MIB, 30 * MIB], 2 * GIB))).short).toBeUndefined();
  });

  it('may take what was reserved, all together, however full the pool is', async () => {
    expect((await readWritten(wishes([0, 20 * MIB], 0))).short).toBeUndefined();
  });

  it('may not take more where the pool is nearly full', async () => {
    const { short } = await readWritten(wishes([1 * MIB, 20 * MIB], GIB - 1));
    expect(short).toMatchObject({
      reason: 'DISK_NO_SPACE',
      side: 'destination',
      facts: { pool: 'default', required_bytes: 21 * MIB, available_bytes: GIB - 1 },
    });
  });

  it('have a mark that changes when any of them does', async () => {
    const marks = [
      [1, 2],
      [1, 3],
      [2, 2],
      [1, 2],
    ].map(async (taken) => (await readWritten(wishes(taken, GIB))).mark);
    expect(new Set(await Promise.all(marks)).size).toBe(3);
  });
});

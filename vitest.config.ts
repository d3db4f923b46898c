import { defineConfig } from 'vitest/config';

/**
 * Two projects by cost. `fast` (unit and flow) never starts a real QEMU. `qemu` does, under TCG,
 * and runs one file at a time, because every guest wants a core for itself; it begins when `fast`
 * has ended.
 */
export default defineConfig({
  test: {
    // Most of the fast tests wait for something more than they work.
    maxWorkers: 3,
    projects: [
      {
        test: {
          name: 'fast',
          include: ['test/unit/**/*.test.ts', 'test/flow/**/*.test.ts', 'test/tidy.test.ts'],
          sequence: { groupOrder: 0 },
          testTimeout: 20_000,
          hookTimeout: 20_000,
        },
      },
      {
        test: {
          name: 'qemu',
          include: ['test/qemu/**/*.test.ts'],
          sequence: { groupOrder: 1 },
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
    ],
  },
});

import { describe, expect, it } from 'vitest';
import { HostResources } from '../../../src/domain/host-resources.js';
import type { HostSettings, HostSystem } from '../../../src/domain/host-settings.js';

const GIB = 1024 ** 3;

function hostWith(availableBytes: number): HostResources {
  const system: Partial<HostSystem> = {
    memory: async () => ({ totalBytes: 2 * availableBytes, availableBytes }),
    residentBytes: async () => 0,
  };
  const settings = { host: 'host-b', pools: [], kernels: [], system };
  return new HostResources(settings as unknown as HostSettings);
}

describe('the memory of a host', () => {
  it('is promised once, however many ask for it at the same time', async () => {
    const host = hostWith(10 * GIB);
    const asked = Array.from({ length: 100 }, () => host.reserveMemory(GIB));
    const given = (await Promise.allSettled(asked)).filter(({ status }) => status === 'fulfilled');
    expect(given.length).toBeLessThanOrEqual(10);
    expect(await host.availableMemoryBytes()).toBe((10 - given.length) * GIB);
  });

  it('can be promised again when a promise is given back, or was refused', async () => {
    const host = hostWith(4 * GIB);
    const first = await host.reserveMemory(3 * GIB);
    await expect(host.reserveMemory(2 * GIB)).rejects.toMatchObject({
      reason: 'NO_MEMORY',
      facts: { required_bytes: 2 * GIB, available_bytes: GIB },
    });
    first.release();
    await host.reserveMemory(4 * GIB);
  });
});

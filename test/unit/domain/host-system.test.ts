import { describe, expect, it } from 'vitest';
import { hostSystem, parseMemory } from '../../../src/domain/host-system.js';

describe('the host', () => {
  it('has memory, of which some is free', async () => {
    const { totalBytes, availableBytes } = await hostSystem.memory();
    expect(availableBytes).toBeGreaterThan(0);
    expect(totalBytes).toBeGreaterThan(availableBytes);
    expect(await hostSystem.residentBytes(process.pid)).toBeGreaterThan(1024 ** 2);
    expect(await hostSystem.residentBytes(2 ** 22 + 1)).toBe(0);
  });

  it('is not believed to have memory where Linux says nothing of it', () => {
    const text = 'MemTotal:       2048 kB\nMemFree:           1 kB\nMemAvailable:   1024 kB\n';
    expect(parseMemory(text)).toEqual({ totalBytes: 2 * 1024 ** 2, availableBytes: 1024 ** 2 });
    expect(() => parseMemory('MemTotal: 1 kB')).toThrow('MemAvailable');
  });

  it('has no bridge that nobody made', async () => {
    expect(await hostSystem.bridgeExists('nobridge0')).toBe(false);
  });
});

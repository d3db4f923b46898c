import { constants } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { cpus } from 'node:os';
import { createTap, deleteTap } from '../process/tap.js';
import type { HostSystem, MemoryFacts } from './host-settings.js';

/** The host's own kernel. */
export const hostSystem: HostSystem = {
  memory: async () => parseMemory(await readFile('/proc/meminfo', 'latin1')),
  residentBytes: async (pid) => {
    const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '');
    return kibibytes(status, 'VmRSS') ?? 0;
  },
  cpus: () => cpus().length,
  kvmUsable: () =>
    access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    ),
  // Only a bridge has this folder.
  bridgeExists: (name) =>
    stat(`/sys/class/net/${name}/bridge`).then(
      () => true,
      () => false,
    ),
  createTap,
  deleteTap: (name) => deleteTap(name),
};

/** Reads /proc/meminfo. Throws an Error where it is not as Linux writes it. */
export function parseMemory(text: string): MemoryFacts {
  const totalBytes = kibibytes(text, 'MemTotal');
  const availableBytes = kibibytes(text, 'MemAvailable');
  if (totalBytes === undefined || availableBytes === undefined) {
    throw new Error('/proc/meminfo has no MemTotal or no MemAvailable.');
  }
  return { totalBytes, availableBytes };
}

function kibibytes(text: string, field: string): number | undefined {
  const match = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(text);
  return match ? Number(match[1]) * 1024 : undefined;
}

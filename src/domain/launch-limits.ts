import type { ProcessLimits } from '../process/launcher.js';
import type { DomainSpec } from '../spec/domain-spec.js';

const MIB = 1024 ** 2;

/** QEMU itself, its buffers for NBD, TLS and the RAM stream, and the kernel's for its sockets. */
const BASE_BYTES = 512 * MIB;
/** The tables that qcow2 keeps of an image, and what a mirror has under way. */
const DISK_BYTES = 96 * MIB;
/** TCG keeps up to 1 GiB of translated code. */
const TCG_BYTES = 1024 * MIB;
/** Page tables, those of KVM, and the bitmap of dirty pages. */
const TABLES_SHARE = 1 / 64;
/** Workers for I/O, up to 64 for each of a few loops, and threads of a migration. */
const BASE_TASKS = 256;

/**
 * What a QEMU may take of its host: a lot more than it ever needs, so that only one that has gone
 * astray, or over to its guest, meets the limit.
 */
export function launchLimits({
  memoryBytes,
  vcpus,
  disks,
  accelerator,
}: DomainSpec): ProcessLimits {
  const tables = Math.ceil(memoryBytes * TABLES_SHARE);
  const code = accelerator === 'tcg' ? TCG_BYTES : 0;
  return {
    memoryBytes: memoryBytes + tables + BASE_BYTES + disks.length * DISK_BYTES + code,
    tasks: vcpus + BASE_TASKS,
  };
}

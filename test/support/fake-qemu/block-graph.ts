import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import type {
  BlockInfo,
  BlockNodeInfo,
  QueryBlockstatsResultItem,
} from '../../../src/qmp/types.gen.js';
import type { OptionObject } from './argv.js';
import { WriteStatistics } from './block-statistics.js';
import { FakeQmpError } from './errors.js';
import type { NbdClient } from './nbd-client.js';

/** One node of the block graph. Bytes lie in a file, or behind an NBD connection. */
export interface BlockNode {
  readonly name: string;
  readonly driver: string;
  readonly fileName: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly detectZeroes: BlockNodeInfo['detect_zeroes'];
  /** The node below, for a format node. */
  readonly childName: string | undefined;
  readonly nbd: NbdClient | undefined;
  /** Open file, for a protocol node; -1 for NBD, and once its QEMU has gone. */
  fd: number;
}

/** A block device that the guest sees. */
interface GuestDisk {
  /** The device's id, or its place in QEMU's object tree, as `query-block` has it. */
  readonly qdev: string;
  readonly node: BlockNode;
}

const FORMATS: ReadonlySet<string> = new Set(['raw', 'qcow2']);
const DISK_DEVICES = /^(virtio-blk|scsi-hd|scsi-cd|ide-hd|ide-cd)/;

/**
 * The block nodes of one fake QEMU. Every image, whatever format is named, is a plain file of the
 * virtual size: what matters here is which bytes arrive where, and the formats are QEMU's business.
 */
export class BlockGraph {
  readonly nodes = new Map<string, BlockNode>();
  readonly #disks: GuestDisk[] = [];
  readonly #writes = new Map<BlockNode, WriteStatistics>();

  /**
   * Opens an image given by `-blockdev` or `blockdev-add`. A format node's `file` may be nested or
   * a name.
   */
  addFile(options: OptionObject): BlockNode {
    const name = String(options['node-name'] ?? `#block${this.nodes.size}`);
    this.#assertFree(name);
    const driver = String(options['driver']);
    const readOnly = options['read-only'] === true;
    const detectZeroes = (options['detect-zeroes'] ?? 'off') as BlockNode['detectZeroes'];
    const shared = { name, driver, readOnly, detectZeroes, nbd: undefined };
    if (FORMATS.has(driver)) {
      const file = options['file'];
      const child =
        typeof file === 'string'
          ? this.get(file)
          : this.addFile({ 'read-only': readOnly, ...(file as OptionObject) });
      const { fileName, sizeBytes, fd } = child;
      return this.#add({ ...shared, fileName, sizeBytes, fd, childName: child.name });
    }
    const fileName = String(options['filename']);
    try {
      const fd = openSync(fileName, readOnly ? 'r' : 'r+');
      const sizeBytes = fstatSync(fd).size;
      return this.#add({ ...shared, fileName, sizeBytes, fd, childName: undefined });
    } catch {
      throw new FakeQmpError(`Could not open '${fileName}': No such file or directory`);
    }
  }

  addNbd(name: string, fileName: string, nbd: NbdClient): BlockNode {
    const { sizeBytes } = nbd;
    const fixed = {
      driver: 'nbd',
      readOnly: false,
      detectZeroes: 'unmap',
      childName: undefined,
    } as const;
    return this.#add({ name, fileName, sizeBytes, nbd, fd: -1, ...fixed });
  }

  /** Gives a node to the guest if the device is a disk. */
  addDevice(options: OptionObject): void {
    if (!DISK_DEVICES.test(String(options['driver'])) || options['drive'] === undefined) return;
    const id = String(options['id']);
    const isVirtio = String(options['driver']).startsWith('virtio-blk');
    const qdev = isVirtio ? `/machine/peripheral/${id}/virtio-backend` : id;
    this.#disks.push({ qdev, node: this.get(String(options['drive'])) });
  }

  get(name: string): BlockNode {
    const node = this.nodes.get(name);
    if (!node) throw new FakeQmpError(`Cannot find device='' nor node-name='${name}'`);
    return node;
  }

  remove(name: string): BlockNode {
    const node = this.nodes.get(name);
    if (!node) throw new FakeQmpError(`Failed to find node with node-name='${name}'`);
    const inUse = [...this.nodes.values()].some((other) => other.childName === name);
    if (inUse || this.#disks.some((disk) => disk.node === node)) {
      throw new FakeQmpError(`Node ${name} is in use`);
    }
    this.nodes.delete(name);
    return node;
  }

  /** The disks that the guest may write to, in the order of the command line. */
  writableDisks(): readonly BlockNode[] {
    return this.#disks.map((disk) => disk.node).filter((node) => !node.readOnly);
  }

  isGuestDisk(node: BlockNode): boolean {
    return this.#disks.some((disk) => disk.node === node);
  }

  queryBlock(active: boolean): readonly BlockInfo[] {
    return this.#disks.map(({ qdev, node }) => ({
      device: '',
      qdev,
      type: 'unknown',
      removable: false,
      locked: false,
      'io-status': 'ok',
      inserted: describeNode(node, active),
    }));
  }

  queryBlockstats(): readonly QueryBlockstatsResultItem[] {
    return this.#disks.map(({ qdev, node }) => ({
      device: '',
      qdev,
      'node-name': node.name,
      stats: this.#writes.get(node)?.describe() ?? new WriteStatistics().describe(),
    }));
  }

  /** Counts a write that the guest was told of. */
  countWrite(node: BlockNode, bytes: number, waitedMs: number): void {
    const writes = this.#writes.get(node) ?? new WriteStatistics();
    writes.add(bytes, waitedMs);
    this.#writes.set(node, writes);
  }

  close(): void {
    for (const node of this.nodes.values()) {
      node.nbd?.close();
      if (node.fd >= 0 && node.childName === undefined) closeSync(node.fd);
    }
    for (const node of this.nodes.values()) node.fd = -1;
    this.nodes.clear();
  }

  #add(node: BlockNode): BlockNode {
    this.#assertFree(node.name);
    this.nodes.set(node.name, node);
    return node;
  }

  #assertFree(name: string): void {
    if (this.nodes.has(name)) throw new FakeQmpError(`Duplicate nodes with node-name='${name}'`);
  }
}

/** Describes a node as `query-named-block-nodes` does. */
export function describeNode(node: BlockNode, active: boolean): BlockNodeInfo {
  return {
    file: node.fileName,
    'node-name': node.name,
    ro: node.readOnly,
    drv: node.driver,
    backing_file_depth: 0,
    active,
    encrypted: false,
    detect_zeroes: node.detectZeroes,
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
    write_threshold: 0,
    cache: { writeback: true, direct: false, 'no-flush': false },
    image: {
      filename: node.fileName,
      format: node.driver,
      'virtual-size': node.sizeBytes,
      ...(node.fd >= 0
        ? { 'actual-size': fstatSync(node.fd).blocks * 512, 'dirty-flag': false }
        : {}),
    },
  };
}

/** Reads bytes of a file node. Throws an Error with the code EBADF when its QEMU has gone. */
export function readNode(node: BlockNode, offset: number, length: number): Buffer {
  assertOpen(node);
  const bytes = Buffer.alloc(length);
  readSync(node.fd, bytes, 0, length, offset);
  return bytes;
}

// The number of a closed descriptor may be somebody else's.
function assertOpen({ fd }: BlockNode): void {
  if (fd < 0) throw Object.assign(new Error('The image is closed.'), { code: 'EBADF' });
}

/** Writes bytes of a file node. Zeros over zeros are left out, so that thin images stay thin. */
export function writeNode(node: BlockNode, offset: number, bytes: Buffer): void {
  assertOpen(node);
  if (isZero(bytes) && isZero(readNode(node, offset, bytes.length))) return;
  writeSync(node.fd, bytes, 0, bytes.length, offset);
}

/** True if all bytes are zero. */
export function isZero(bytes: Buffer): boolean {
  return (
    bytes.length === 0 ||
    (bytes[0] === 0 && bytes.compare(bytes, 1, bytes.length, 0, bytes.length - 1) === 0)
  );
}

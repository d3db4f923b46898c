/** One entry of an archive. Folders and devices have no content. */
export interface CpioEntry {
  /** Path without a leading slash. Folders come before what lies in them. */
  readonly path: string;
  readonly kind: 'file' | 'folder' | 'character-device';
  /** Permission bits, as in `0o755`. */
  readonly permissions: number;
  readonly content?: Uint8Array;
  /** Major and minor number of a device. */
  readonly device?: readonly [major: number, minor: number];
}

const TYPE_BITS = { file: 0o100000, folder: 0o040000, 'character-device': 0o020000 } as const;

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}

function entryBytes(entry: CpioEntry, inode: number): Buffer[] {
  const content = entry.content ?? Buffer.alloc(0);
  const name = Buffer.from(`${entry.path}\0`);
  const [major, minor] = entry.device ?? [0, 0];
  const fields = [
    inode,
    TYPE_BITS[entry.kind] | entry.permissions,
    0, // user
    0, // group
    entry.kind === 'folder' ? 2 : 1, // links
    0, // time: always the same, so that the same content gives the same bytes
    content.length,
    0, // major and minor of the device that holds the file
    0,
    major,
    minor,
    name.length,
    0, // checksum, which this variant of the format does not have
  ];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return [
    Buffer.from(header),
    name,
    padding(header.length + name.length),
    Buffer.from(content),
    padding(content.length),
  ];
}

/**
 * Packs entries into a cpio archive of the "newc" format, the one the Linux kernel unpacks at
 * start.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const trailer: CpioEntry = { path: 'TRAILER!!!', kind: 'file', permissions: 0 };
  const parts = entries.flatMap((entry, index) => entryBytes(entry, index + 1));
  const end = entryBytes(trailer, 0);
  return Buffer.concat([...parts, ...end]);
}

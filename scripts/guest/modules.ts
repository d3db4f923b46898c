import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** A kernel module ready to be loaded. */
export interface KernelModule {
  /** The kernel's own name, with underscores. */
  readonly name: string;
  /** The uncompressed module. */
  readonly content: Buffer;
}

/** Files call a module `virtio-rng` where the kernel says `virtio_rng`. */
function moduleName(file: string): string {
  return basename(file)
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');
}

/** Node cannot unpack xz, and the machine may have no xz; the guest's own busybox can. */
function readModule(path: string, busybox: string): Buffer {
  if (path.endsWith('.ko')) return readFileSync(path);
  return execFileSync(busybox, ['xz', '-dc', path], { maxBuffer: 64 * 1024 * 1024 });
}

/** The modules that must be loaded before this one, as its own `.modinfo` section names them. */
function dependencies(content: Buffer): string[] {
  const key = '\0depends=';
  const start = content.indexOf(key, 0, 'latin1');
  if (start < 0) return [];
  const end = content.indexOf(0, start + key.length);
  const list = content.toString('latin1', start + key.length, end);
  return list.split(',').filter((name) => name !== '');
}

/**
 * Finds modules with all they depend on, in an order in which they can be loaded.
 *
 * @param folder the folder of one kernel's modules, searched in depth.
 * @param wanted names of modules; one that the kernel has built in has no file and is left out.
 */
export function modulesInLoadOrder(
  folder: string,
  wanted: readonly string[],
  busybox: string,
): KernelModule[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
    /\.ko(\.xz)?$/.test(file),
  );
  const paths = new Map(files.map((file) => [moduleName(file), join(folder, file)]));
  const ordered = new Map<string, KernelModule>();
  const visit = (name: string): void => {
    const path = paths.get(name);
    if (path === undefined || ordered.has(name)) return;
    const content = readModule(path, busybox);
    for (const dependency of dependencies(content)) visit(dependency.replaceAll('-', '_'));
    ordered.set(name, { name, content });
  };
  for (const name of wanted) visit(name);
  return [...ordered.values()];
}

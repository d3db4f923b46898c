import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { type CpioEntry, cpioArchive } from './cpio.js';
import { modulesInLoadOrder } from './modules.js';

/** What QEMU needs to start the Linux test guest. */
export interface LinuxGuest {
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /**
   * Kernel command line; settings of the guest's program may be appended (see test/guest/writer.c).
   */
  readonly commandLine: string;
}

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
const PROGRAM = join(CHECKOUT, 'test/guest/writer');

/**
 * Errors and panics stay visible on the serial console; everything else that costs time at start
 * under emulation, or writes into the guest's lines, is switched off.
 */
const COMMAND_LINE = [
  'console=ttyS0',
  'quiet',
  'loglevel=4',
  'panic=0',
  'mitigations=off',
  'cryptomgr.notests',
  'no_timer_check',
  'audit=0',
].join(' ');

/**
 * The disk driver of SCSI comes last: loading it waits until every disk found by then is usable.
 */
const MODULES = [
  'virtio_pci',
  'virtio_blk',
  'virtio_scsi',
  'ata_piix',
  'virtio_net',
  'virtio_rng',
  'virtio_balloon',
  'sd_mod',
];

/** A virtio-scsi bus has 256 places, and under emulation the kernel takes 6 s to try them all. */
const MODULE_OPTIONS = new Map([['scsi_mod', 'scan=manual']]);

/** Places on a virtio-scsi bus are filled from 0 on, so the first empty one ends the search. */
const INIT = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
scan_virtio_scsi() {
  for host in /sys/class/scsi_host/host*; do
    read -r driver <"$host/proc_name"
    [ "$driver" = virtio_scsi ] || continue
    place=0
    while echo "0 $place 0" >"$host/scan" &&
      [ -e "/sys/class/scsi_device/\${host##*host}:0:$place:0" ]; do
      place=$((place + 1))
    done
  done
}
while read -r module options; do
  [ "$module" != sd_mod ] || scan_virtio_scsi
  /bin/busybox insmod "/modules/$module.ko" $options
done </modules/order
exec /writer
`;

/**
 * The folder that holds what set-up fetched and built: `DROVER_CACHE`, or `.cache` in the checkout.
 */
export function cacheFolder(): string {
  return process.env['DROVER_CACHE'] ?? join(CHECKOUT, '.cache');
}

function entries(packages: string): CpioEntry[] {
  const busybox = [join(packages, 'bin/busybox'), join(packages, 'usr/bin/busybox')].find(
    existsSync,
  );
  const library = [join(packages, 'lib/modules'), join(packages, 'usr/lib/modules')].find(
    existsSync,
  );
  if (busybox === undefined || library === undefined) {
    throw new Error(
      `${packages} lacks busybox or kernel modules: delete it and run npm run demo again`,
    );
  }
  const modules = modulesInLoadOrder(library, MODULES, busybox);
  const order = modules.map(({ name }) => `${name} ${MODULE_OPTIONS.get(name) ?? ''}\n`).join('');
  const folders = ['bin', 'dev', 'modules', 'proc', 'sys'];
  return [
    ...folders.map((path): CpioEntry => ({ path, kind: 'folder', permissions: 0o755 })),
    { path: 'dev/console', kind: 'character-device', permissions: 0o600, device: [5, 1] },
    file('bin/busybox', readFileSync(busybox), 0o755),
    file('init', Buffer.from(INIT), 0o755),
    file('writer', readFileSync(PROGRAM), 0o755),
    file('modules/order', Buffer.from(order), 0o644),
    ...modules.map(({ name, content }) => file(`modules/${name}.ko`, content, 0o644)),
  ];
}

function file(path: string, content: Uint8Array, permissions: number): CpioEntry {
  return { path, kind: 'file', permissions, content };
}

/**
 * Builds the Linux test guest from the packages that `scripts/setup-guest.sh` has unpacked. The
 * initial file system is kept under a name made from all that goes into it, so it is built once for
 * each content.
 *
 * @throws Error when the packages are not there.
 */
export function prepareLinuxGuest(): LinuxGuest {
  const folder = join(cacheFolder(), 'guest');
  const packages = join(folder, 'packages');
  const list = join(folder, 'packages.txt');
  if (!existsSync(list)) {
    throw new Error(`${list} is missing: run sh scripts/setup-guest.sh first`);
  }
  const kernel = readdirSync(join(packages, 'boot')).find((name) => name.startsWith('vmlinuz-'));
  if (kernel === undefined) throw new Error(`${packages}/boot holds no kernel: delete ${folder}`);
  const digest = createHash('sha256');
  for (const path of [list, PROGRAM, ...sourceFiles()]) digest.update(readFileSync(path));
  const initramfsPath = join(folder, `initramfs-${digest.digest('hex').slice(0, 16)}.cpio.gz`);
  if (!existsSync(initramfsPath)) {
    const unfinished = `${initramfsPath}.${process.pid}`;
    writeFileSync(unfinished, gzipSync(cpioArchive(entries(packages)), { level: 6 }));
    renameSync(unfinished, initramfsPath);
  }
  return { kernelPath: join(packages, 'boot', kernel), initramfsPath, commandLine: COMMAND_LINE };
}

/** The files that decide what the archive looks like: this one and its two helpers. */
function sourceFiles(): string[] {
  return ['linux-guest.ts', 'cpio.ts', 'modules.ts'].map((name) =>
    fileURLToPath(new URL(name, import.meta.url)),
  );
}

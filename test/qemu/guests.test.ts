import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { prepareLinuxGuest } from '../../scripts/guest/linux-guest.js';
import { createBootSectorImage, readDisk } from '../support/blocks.js';
import { Ledger } from '../support/ledger.js';
import { SerialLog } from '../support/serial-log.js';

const MIB = 1024 * 1024;
const limit = { limitMs: 60_000 };

let folder: string;
let qemu: ChildProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drover-guests-'));
});

afterEach(async () => {
  await stop();
  await rm(folder, { recursive: true });
});

/** Starts QEMU under emulation with nothing but what is given, its serial console in a file. */
function start(machine: string, ...options: string[]): SerialLog {
  const serial = join(folder, 'serial.log');
  const base = ['-accel', 'tcg', '-M', machine, '-m', '128', '-nodefaults', '-no-user-config'];
  const console = ['-display', 'none', '-serial', `file:${serial}`];
  qemu = spawn('qemu-system-x86_64', [...base, ...console, ...options], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return SerialLog.file(serial);
}

async function stop(): Promise<void> {
  if (qemu === undefined || qemu.exitCode !== null || qemu.signalCode !== null) return;
  const exit = once(qemu, 'exit');
  qemu.kill('SIGTERM');
  await exit;
}

/** Options for a disk: its image below a device of the given kind. */
function disk(name: string, format: string, device: string): string[] {
  const file = `file.driver=file,file.filename=${join(folder, name)}`;
  return [
    ...['-blockdev', `driver=${format},node-name=${name},${file}`],
    ...['-device', `${device},drive=${name},write-cache=off`],
  ];
}

const SCSI_BUS = ['-device', 'virtio-scsi-pci'];

test.each([
  ['q35', 'virtio-scsi', [...SCSI_BUS, '-device', 'virtio-rng-pci'], 'scsi-hd'],
  ['pc', 'ide', ['-device', 'virtio-balloon-pci'], 'ide-hd'],
])(
  'the Linux guest on %s writes to virtio-blk and %s disks',
  async (machine, _bus, bus, device) => {
    const guest = prepareLinuxGuest();
    writeFileSync(join(folder, 'first'), '');
    truncateSync(join(folder, 'first'), 64 * MIB);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'second'), '32M']);
    using log = start(
      machine,
      ...['-kernel', guest.kernelPath, '-initrd', guest.initramfsPath],
      ...['-append', `${guest.commandLine} drover.disks=2 drover.slots=512`],
      ...bus,
      ...disk('first', 'raw', 'virtio-blk-pci'),
      ...disk('second', 'qcow2', device),
    );
    await log.waitForReady(limit);
    await log.waitForWrites(300, limit);
    await stop();

    const ledger = new Ledger([log.cut()]);
    expect(ledger.describeFaults()).toBe('');
    expect([...ledger.disks.values()]).toEqual([
      { name: 'vda', slots: 512 },
      { name: 'sda', slots: 512 },
    ]);
    expect(ledger.heartbeats).toBeGreaterThan(10);
    for (const [name, format] of [['first', 'raw'] as const, ['second', 'qcow2'] as const]) {
      const content = await readDisk(join(folder, name), { guest: 'linux', format, slots: 512 });
      expect(content.disk).toBe(name === 'first' ? 0 : 1);
      expect(content.tornSlots).toEqual([]);
      expect(ledger.lostWrites(content)).toEqual([]);
      expect(content.blocks.size).toBeGreaterThan(100);
    }
  },
);

test('the boot-sector guest writes to disks on every bus', async () => {
  const names = ['one', 'two', 'three', 'four'];
  for (const name of names) await createBootSectorImage(join(folder, name), 8 * MIB);
  using log = start(
    'pc',
    ...SCSI_BUS,
    ...disk('one', 'raw', 'virtio-blk-pci'),
    ...disk('two', 'raw', 'ide-hd'),
    ...disk('three', 'raw', 'scsi-hd'),
    ...disk('four', 'raw', 'virtio-blk-pci'),
  );
  await log.waitForWrites(400, limit);
  await stop();

  const ledger = new Ledger([log.cut()]);
  expect(ledger.describeFaults()).toBe('');
  const contents = await Promise.all(
    names.map((name) => readDisk(join(folder, name), { guest: 'boot-sector' })),
  );
  expect(contents.map((content) => content.disk).sort()).toEqual([0, 1, 2, 3]);
  for (const content of contents) {
    expect(content.tornSlots).toEqual([]);
    expect(ledger.lostWrites(content)).toEqual([]);
    expect(ledger.newestWrite(content.disk)).toBeGreaterThan(90);
  }
});

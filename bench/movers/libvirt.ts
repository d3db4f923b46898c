import { randomUUID } from 'node:crypto';
import { rm, truncate, writeFile } from 'node:fs/promises';
import type { LinuxGuest } from '../../scripts/guest/linux-guest.js';
import { diskIds, fillImage, type GuestPlan, MIB, workloadArguments } from '../stage/guest-plan.js';
import { GuestRecord } from '../stage/guest-record.js';
import type { LibvirtHosts } from '../stage/libvirt-hosts.js';
import { type HostName, otherHost } from '../stage/network.js';
import { qemuBinary } from './by-hand.js';
import type { MovedGuest, Mover } from './mover.js';

type LibvirtName = 'libvirt' | 'libvirt-tls' | 'libvirt-sync';

/** What is said besides `--live --p2p --copy-storage-all`. */
const OPTIONS: Readonly<Record<LibvirtName, readonly string[]>> = {
  libvirt: [],
  'libvirt-tls': ['--tls'],
  'libvirt-sync': ['--parallel', '--copy-storage-synchronous-writes'],
};

/** `virsh migrate`, from one libvirtd to the other. */
export class LibvirtMover implements Mover {
  readonly name: LibvirtName;
  readonly #hosts: LibvirtHosts;
  readonly #kernel: LinuxGuest;

  constructor(name: LibvirtName, hosts: LibvirtHosts, kernel: LinuxGuest) {
    this.name = name;
    this.#hosts = hosts;
    this.#kernel = kernel;
  }

  async start(plan: GuestPlan, name: string): Promise<MovedGuest> {
    const guest = new LibvirtGuest(this.#hosts, this.name, plan, name);
    await guest.start(this.#kernel.commandLine);
    return guest;
  }

  servicePids(host: HostName): readonly number[] {
    return [this.#hosts.pid(host)];
  }
}

class LibvirtGuest implements MovedGuest {
  readonly record: GuestRecord;
  readonly #hosts: LibvirtHosts;
  readonly #mover: LibvirtName;
  readonly #plan: GuestPlan;
  readonly #name: string;
  #host: HostName = 'alpha';
  #stopped = false;

  constructor(hosts: LibvirtHosts, mover: LibvirtName, plan: GuestPlan, name: string) {
    this.#hosts = hosts;
    this.#mover = mover;
    this.#plan = plan;
    this.#name = name;
    this.record = new GuestRecord('alpha', plan.writes.kib / 4);
  }

  get host(): HostName {
    return this.#host;
  }

  get qemuPid(): number {
    return this.#hosts.qemuPid(this.#host, this.#name);
  }

  get imagePaths(): readonly string[] {
    return this.#images(this.#host);
  }

  async start(commandLine: string): Promise<void> {
    await this.#makeImages('alpha');
    for (const [index, disk] of this.#plan.disks.entries()) {
      await fillImage(this.imagePaths[index] ?? '', this.#plan, disk);
    }
    const definition = `${this.#name}.xml`;
    const arguments_ = `${commandLine} ${workloadArguments(this.#plan)}`;
    const xml = describeDomain(this.#plan, this.#name, arguments_, await qemuBinary());
    await writeFile(this.#hosts.file('alpha', definition), xml);
    await this.#listen('alpha');
    await this.#hosts.virsh('alpha', 'create', `/bench/${definition}`);
    await this.record.ready();
  }

  async pause(paused: boolean): Promise<void> {
    await this.#hosts.virsh(this.#host, paused ? 'suspend' : 'resume', this.#name);
  }

  async move(): Promise<number> {
    const to = otherHost(this.#host);
    // Without a storage pool libvirt expects them to be there.
    await this.#makeImages(to);
    await this.#listen(to);
    const address = this.#hosts.address(to);
    await this.#hosts.virsh(
      this.#host,
      ...['migrate', '--live', '--p2p', '--copy-storage-all', ...OPTIONS[this.#mover]],
      ...[this.#name, `qemu+tcp://${address}/system`, '--migrateuri', `tcp://${address}`],
    );
    const doneMs = performance.now();
    const images = this.imagePaths;
    this.#host = to;
    for (const path of images) await rm(path);
    return doneMs;
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await this.#hosts.virsh(this.#host, 'destroy', this.#name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of [this.#host, otherHost(this.#host)]) {
      await this.#hosts.virsh(host, 'destroy', this.#name).catch(() => undefined);
    }
    this.record[Symbol.dispose]();
    for (const host of ['alpha', 'beta'] as const) {
      const files = [...this.#images(host), this.#hosts.file(host, `${this.#name}.log`)];
      for (const path of files) await rm(path, { force: true });
    }
  }

  #images(host: HostName): readonly string[] {
    return diskIds(this.#plan).map((disk) => this.#hosts.file(host, `${this.#name}-${disk}.raw`));
  }

  async #makeImages(host: HostName): Promise<void> {
    for (const [index, path] of this.#images(host).entries()) {
      await writeFile(path, '', { flag: 'wx' });
      await truncate(path, (this.#plan.disks[index]?.sizeMib ?? 0) * MIB);
    }
  }

  async #listen(host: HostName): Promise<void> {
    this.record.follow(host, this.#hosts.file(host, `${this.#name}.log`));
  }
}

/** The same guest as the others': machine, CPU, memory, kernel, disks and console. */
function describeDomain(
  plan: GuestPlan,
  name: string,
  commandLine: string,
  emulator: string,
): string {
  const disk = (id: string, index: number) => `
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='threads' discard='unmap'
        detect_zeroes='unmap'/>
      <source file='/bench/${name}-${id}.raw'/>
      <target dev='vd${String.fromCharCode(97 + index)}' bus='virtio'/>
    </disk>`;
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>${randomUUID()}</uuid>
  <memory unit='MiB'>${plan.memoryMib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/bench/kernel</kernel>
    <initrd>/bench/initramfs</initrd>
    <cmdline>${commandLine}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <clock offset='utc'/>
  <devices>
    <emulator>${emulator}</emulator>${diskIds(plan).map(disk).join('')}
    <serial type='file'>
      <source path='/bench/${name}.log' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <audio id='1' type='none'/>
  </devices>
</domain>
`;
}

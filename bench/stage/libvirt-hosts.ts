import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cacheFolder, type LinuxGuest } from '../../scripts/guest/linux-guest.js';
import { HOST_NAMES, type HostName, type Network } from './network.js';

const SET_UP = fileURLToPath(new URL('../setup-libvirt.sh', import.meta.url));
const BECOME = fileURLToPath(new URL('libvirt-host.sh', import.meta.url));
const START_LIMIT_MS = 30_000;
const POLL_MS = 50;

/** A libvirtd on each host of a network, from the distribution's packages. */
export class LibvirtHosts implements AsyncDisposable {
  readonly #network: Network;
  readonly #folder: string;
  readonly #daemons = new Map<HostName, ChildProcess>();

  private constructor(network: Network, folder: string) {
    this.#network = network;
    this.#folder = folder;
  }

  /** Fetches libvirt where that has not been done, and starts it; `folder` is its own. */
  static async start(network: Network, folder: string, guest: LinuxGuest): Promise<LibvirtHosts> {
    execFileSync('sh', [SET_UP], { stdio: ['ignore', 'ignore', 'inherit'] });
    const hosts = new LibvirtHosts(network, folder);
    try {
      for (const host of HOST_NAMES) hosts.#start(host, guest);
      await Promise.all(HOST_NAMES.map((host) => hosts.#answers(host)));
      return hosts;
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A file of a host as everybody sees it; for its libvirtd it lies in `/bench`. */
  file(host: HostName, name: string): string {
    return join(this.#folder, host, 'files', name);
  }

  pid(host: HostName): number {
    return this.#daemons.get(host)?.pid ?? 0;
  }

  address(host: HostName): string {
    return this.#network.address(host);
  }

  /** Runs virsh on a host, as its administrator would. */
  async virsh(host: HostName, ...argv: string[]): Promise<string> {
    const pid = String(this.pid(host));
    const enter = ['--target', pid, '--mount', '--uts', '--net', '--root', '--wd=/'];
    const command = ['virsh', '-q', '-c', 'qemu:///system', ...argv];
    const { stdout } = await promisify(execFile)('nsenter', [...enter, ...command]);
    return stdout;
  }

  /** The QEMU of a domain. */
  qemuPid(host: HostName, domain: string): number {
    const path = `/proc/${this.pid(host)}/root/run/libvirt/qemu/${domain}.pid`;
    return Number(readFileSync(path, 'utf8'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemon of this.#daemons.values()) {
      if (daemon.exitCode !== null || daemon.signalCode !== null) continue;
      daemon.kill('SIGTERM');
      await once(daemon, 'exit');
    }
  }

  #start(host: HostName, guest: LinuxGuest): void {
    const folder = join(this.#folder, host);
    const [scratch, files, tls] = ['scratch', 'files', 'tls'].map((name) => join(folder, name));
    for (const path of [scratch, files, tls]) mkdirSync(path ?? '', { recursive: true });
    copyFileSync(guest.kernelPath, join(files ?? '', 'kernel'));
    copyFileSync(guest.initramfsPath, join(files ?? '', 'initramfs'));
    makeCertificates(join(this.#folder, 'ca'), tls ?? '', this.address(host));
    const [enter, ...argv] = this.#network.enter(host);
    const packages = join(cacheFolder(), 'libvirt', 'root');
    const become = [BECOME, packages, scratch ?? '', files ?? '', host, tls ?? ''];
    const log = openSync(join(folder, 'libvirtd.log'), 'a');
    const command = ['unshare', '--mount', '--uts', 'sh', ...become];
    const daemon = spawn(enter, [...argv, ...command], {
      stdio: ['ignore', log, log],
      detached: true,
    });
    this.#daemons.set(host, daemon);
  }

  async #answers(host: HostName): Promise<void> {
    for (let waitedMs = 0; waitedMs < START_LIMIT_MS; waitedMs += POLL_MS) {
      try {
        await this.virsh(host, 'list');
        return;
      } catch {
        await delay(POLL_MS);
      }
    }
    const log = readFileSync(join(this.#folder, host, 'libvirtd.log'), 'utf8');
    throw new Error(`libvirtd does not answer on ${host}:\n${log}`);
  }
}

/** An authority for the two hosts, and a certificate for one that serves at both ends. */
function makeCertificates(authority: string, folder: string, address: string): void {
  const openssl = (...argv: string[]) => execFileSync('openssl', argv, { stdio: 'pipe' });
  const [caKey, caFile] = [join(authority, 'key.pem'), join(authority, 'cert.pem')];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  if (!existsSync(caFile)) {
    mkdirSync(authority, { recursive: true });
    const subject = ['-subj', '/CN=bench', '-days', '2'];
    openssl('req', '-x509', ...curve, ...subject, '-keyout', caKey, '-out', caFile);
  }
  const [key, request, leaf, extensions] = ['key', 'request', 'leaf', 'extensions'].map((name) =>
    join(folder, `${name}.pem`),
  ) as [string, string, string, string];
  openssl('req', '-new', ...curve, '-subj', `/CN=${address}`, '-keyout', key, '-out', request);
  const lines = [`subjectAltName=IP:${address}`, 'extendedKeyUsage=serverAuth,clientAuth'];
  writeFileSync(extensions, `${lines.join('\n')}\n`);
  const signer = ['-CA', caFile, '-CAkey', caKey, '-CAcreateserial', '-days', '2'];
  openssl('x509', '-req', '-in', request, ...signer, '-extfile', extensions, '-out', leaf);
  copyFileSync(caFile, join(folder, 'ca-cert.pem'));
  for (const side of ['server', 'client']) {
    copyFileSync(key, join(folder, `${side}-key.pem`));
    copyFileSync(leaf, join(folder, `${side}-cert.pem`));
  }
}

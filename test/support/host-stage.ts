import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DirectoryPool } from '../../src/domain/directory-pool.js';
import { HostDomains } from '../../src/domain/host-domains.js';
import type { HostSettings, HostSystem, Kernel, Networks } from '../../src/domain/host-settings.js';
import { hostSystem } from '../../src/domain/host-system.js';
import { type Binary, findOnPath, inspectBinary } from '../../src/process/binary.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import type { Launcher } from '../../src/process/launcher.js';
import { readStartTime, signalProcess } from '../../src/process/proc.js';
import { type ImageTool, QemuImg } from '../../src/process/qemu-img.js';
import type { Log } from '../../src/util/log.js';
import { PlainCarrier } from './plain-carrier.js';

/** What a test brings instead of this machine's own. */
export interface HostStageParts {
  readonly host?: string;
  readonly binary?: Binary;
  readonly launcher?: Launcher;
  readonly images?: ImageTool;
  readonly system?: Partial<HostSystem>;
  readonly kernels?: readonly Kernel[];
  readonly networks?: Networks;
  /** Pools of these names instead of one named default; true makes a pool shared. */
  readonly pools?: Readonly<Record<string, { readonly path?: string; readonly shared?: boolean }>>;
}

/** One host with its domains, in a folder of its own, and no agent around it. */
export class HostStage implements AsyncDisposable {
  readonly directory: string;
  readonly settings: HostSettings;
  readonly carrier: PlainCarrier;
  /** What was logged as a warning or an error. */
  readonly problems: string[];
  domains!: HostDomains;
  readonly #pids = new Map<number, number>();

  private constructor(
    directory: string,
    settings: HostSettings & { readonly carrier: PlainCarrier },
    problems: string[],
  ) {
    this.directory = directory;
    this.carrier = settings.carrier;
    this.settings = settings;
    this.problems = problems;
  }

  static async open(parts: HostStageParts = {}): Promise<HostStage> {
    const directory = await mkdtemp(join(tmpdir(), 'drover-host-'));
    // Real QEMUs run as users of their own, and must find what is theirs below.
    await chmod(directory, 0o711);
    const problems: string[] = [];
    const images = parts.images ?? new QemuImg((await findOnPath('qemu-img')) ?? '/missing');
    const pools = Object.entries(parts.pools ?? { default: {} }).map(async ([name, pool]) => {
      const path = pool.path ?? join(directory, 'pools', name);
      await mkdir(path, { recursive: true });
      return DirectoryPool.open({ name, path, shared: pool.shared ?? false }, images);
    });
    const qemu = (await findOnPath('qemu-system-x86_64')) ?? '/missing';
    const settings = {
      carrier: new PlainCarrier(),
      host: parts.host ?? 'here',
      directories: { state: join(directory, 'state'), run: join(directory, 'run') },
      data: { address: '127.0.0.1', ports: [49500, 49599] as const },
      pools: await Promise.all(pools),
      kernels: parts.kernels ?? [],
      networks: parts.networks ?? { bridges: ['br0', 'nobridge0'], user: true },
      binary: parts.binary ?? (await inspectBinary(qemu)),
      launcher: parts.launcher ?? new DetachedLauncher(),
      system: { ...hostSystem, ...parts.system },
      log: collect(problems),
      qemuUids:
        !parts.launcher && process.getuid?.() === 0 ? { first: 400_000, last: 465_535 } : undefined,
    };
    const stage = new HostStage(directory, settings, problems);
    stage.domains = await HostDomains.open(settings);
    return stage;
  }

  /**
   * Ends this life of the manager and begins the next one; QEMUs go on, and so may what `between`
   * does.
   */
  async reopen(
    between: () => void = () => undefined,
    options: Parameters<typeof HostDomains.open>[1] = {},
  ): Promise<HostDomains> {
    await this.#notePids();
    await this.domains.close();
    this.carrier.cut();
    between();
    this.domains = await HostDomains.open(this.settings, options);
    return this.domains;
  }

  /** The path of a pool. */
  pool(name = 'default'): string {
    return join(this.directory, 'pools', name);
  }

  /** Everything that is left of domains: definitions, images, run folders. */
  async leftovers(pool = 'default'): Promise<readonly string[]> {
    const own = new Set(['images', '.tombstones']);
    const folders = [
      join(this.settings.directories.state, 'domains'),
      this.settings.directories.run,
    ];
    const left = await Promise.all([...folders, this.pool(pool)].map((path) => readdir(path)));
    return left.flat().filter((name) => !own.has(name));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#notePids();
    await this.domains.close();
    await this.carrier.close();
    for (const [pid, startTime] of this.#pids) signalProcess({ pid, startTime }, 'SIGKILL');
    await rm(this.directory, { recursive: true, force: true });
  }

  async #notePids(): Promise<void> {
    for (const { qemuPid } of await this.domains.list()) {
      const startTime = qemuPid > 0 ? readStartTime(qemuPid) : undefined;
      if (startTime !== undefined) this.#pids.set(qemuPid, startTime);
    }
  }
}

function collect(problems: string[]): Log {
  const note = (fields: object, message: string) => {
    const { err } = fields as { err?: Error };
    problems.push(err ? `${message}: ${err.message}` : message);
  };
  const quiet = () => undefined;
  const log: Log = { debug: quiet, info: quiet, warn: note, error: note, child: () => log };
  return log;
}

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { buildDelayLine } from './delay-line.js';

/** The two hosts. */
export const HOST_NAMES = ['alpha', 'beta'] as const;
export type HostName = (typeof HOST_NAMES)[number];

/** The other of the two. */
export function otherHost(host: HostName): HostName {
  return host === 'alpha' ? 'beta' : 'alpha';
}

/** What lies between the hosts. */
export interface Link {
  /** Bits per second, each way, the headers of TCP, IP and Ethernet included. */
  readonly bitsPerS: number;
  /** How long a packet is on its way, in milliseconds. */
  readonly delayMs: number;
}

/** Addresses that are set aside for measuring networks. */
const ADDRESSES: Readonly<Record<HostName, string>> = { alpha: '198.18.0.1', beta: '198.18.0.2' };
const DEVICE = 'link0';
/** As on a network for migrations. */
const MTU = 9000;
/** So that a segment of 64 KiB, which is handed over whole, is not cut up. */
const BURST = '256kb';
const POLL_MS = 5;
const START_LIMIT_MS = 5_000;

/**
 * Two hosts as network namespaces with one shaped link between them. The namespaces have no names:
 * they are gone when the last process in them is, and whatever happens to this process, those that
 * hold them end with it.
 */
export class Network implements Disposable {
  readonly link: Link;
  readonly #holders: Readonly<Record<HostName, ChildProcess>>;
  /** What the kernel calls them, which stays while anything runs there. */
  #namespaces: readonly string[] = [];
  #delayLine: ChildProcess | undefined;

  private constructor(link: Link, holders: Readonly<Record<HostName, ChildProcess>>) {
    this.link = link;
    this.#holders = holders;
  }

  /** Needs root. */
  static async start(link: Link): Promise<Network> {
    const holders = { alpha: holdNamespace(), beta: holdNamespace() };
    const network = new Network(link, holders);
    try {
      await Promise.all(HOST_NAMES.map((host) => isApart(network.#pid(host))));
      network.#namespaces = HOST_NAMES.map((host) => readlinkSync(network.namespace(host)));
      await network.#connect();
      return network;
    } catch (error) {
      network[Symbol.dispose]();
      throw error;
    }
  }

  address(host: HostName): string {
    return ADDRESSES[host];
  }

  /** The command that runs another one on a host. It becomes that command: its pid stays. */
  enter(host: HostName): readonly [command: string, ...argv: string[]] {
    return ['/usr/bin/nsenter', `--net=${this.namespace(host)}`];
  }

  /** The file that stands for the network of a host. */
  namespace(host: HostName): string {
    return `/proc/${this.#pid(host)}/ns/net`;
  }

  /** Bytes that have gone over the link so far, both directions together. */
  get wireBytes(): number {
    return HOST_NAMES.reduce((sum, host) => sum + sentBytes(this.#pid(host)), 0);
  }

  /** Ends whatever runs on the hosts, and with that they are gone. */
  [Symbol.dispose](): void {
    this.#delayLine?.kill('SIGKILL');
    for (const pid of processes()) {
      try {
        const namespace = readlinkSync(`/proc/${pid}/ns/net`);
        if (this.#namespaces.includes(namespace)) process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended meanwhile.
      }
    }
  }

  #pid(host: HostName): number {
    const { pid } = this.#holders[host];
    if (pid === undefined) throw new Error('A network namespace could not be made: is this root?');
    return pid;
  }

  async #connect(): Promise<void> {
    if (this.link.delayMs > 0) await this.#startDelayLine();
    else this.#addCable();
    for (const host of HOST_NAMES) {
      const peer = ADDRESSES[otherHost(host)];
      this.#run(host, 'ip', 'link', 'set', 'lo', 'up');
      // With a peer's address a device without Ethernet takes it too.
      const point = this.link.delayMs > 0 ? ['peer', peer] : [];
      const own = this.link.delayMs > 0 ? ADDRESSES[host] : `${ADDRESSES[host]}/24`;
      this.#run(host, 'ip', 'address', 'add', own, ...point, 'dev', DEVICE);
      this.#run(host, 'ip', 'link', 'set', DEVICE, 'up');
      const shape = ['tbf', 'rate', `${this.link.bitsPerS}bit`, 'burst', BURST, 'latency', '20ms'];
      this.#run(host, 'tc', 'qdisc', 'add', 'dev', DEVICE, 'root', ...shape);
    }
  }

  #addCable(): void {
    const end = (host: HostName) => ['name', DEVICE, 'netns', String(this.#pid(host))];
    const mtu = ['mtu', String(MTU)];
    const cable = ['type', 'veth', 'peer', ...end('beta'), ...mtu];
    execFileSync('ip', ['link', 'add', ...end('alpha'), ...mtu, ...cable]);
  }

  async #startDelayLine(): Promise<void> {
    const program = buildDelayLine();
    const namespaces = HOST_NAMES.map((host) => this.namespace(host));
    const delayUs = String(this.link.delayMs * 1000);
    const line = spawn(program, [...namespaces, DEVICE, delayUs], {
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    });
    this.#delayLine = line;
    const ended = once(line, 'exit').then(() => {
      throw new Error('The delay line could not be started.');
    });
    await Promise.race([once(line.stdout, 'data'), ended]);
    ended.catch(() => undefined);
  }

  #run(host: HostName, ...command: string[]): void {
    const [enter, ...argv] = this.enter(host);
    execFileSync(enter, [...argv, ...command], { stdio: ['ignore', 'ignore', 'inherit'] });
  }
}

/** All processes of the machine, by pid. */
export function processes(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid));
}

// It ends when its standard input does, and that is when this process ends.
function holdNamespace(): ChildProcess {
  // Ctrl-C is not for it: who cleans up needs the namespace still.
  return spawn('unshare', ['--net', 'cat'], {
    stdio: ['pipe', 'ignore', 'inherit'],
    detached: true,
  });
}

async function isApart(pid: number): Promise<void> {
  const own = readlinkSync('/proc/self/ns/net');
  for (let waitedMs = 0; waitedMs < START_LIMIT_MS; waitedMs += POLL_MS) {
    if (readlinkSync(`/proc/${pid}/ns/net`) !== own) return;
    await delay(POLL_MS);
  }
  throw new Error('A network namespace could not be made: is this root?');
}

/** Of the eight columns about receiving and eight about sending, the ninth. */
function sentBytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/net/dev`, 'utf8');
  const line = text.split('\n').find((each) => each.trim().startsWith(`${DEVICE}:`));
  return Number(line?.split(':')[1]?.trim().split(/\s+/)[8] ?? Number.NaN);
}

import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { z } from 'zod';
import type { Networks } from '../domain/host-settings.js';
import type { LinkSettings } from '../migration/traffic.js';
import { parseStrict } from '../spec/strict-yaml.js';
import { formatAddress } from '../util/address.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { configSchema } from './config-schema.js';
import type { Limits } from './limits.js';

/** How an agent is set up. All paths are absolute. */
export interface AgentConfig {
  /** The host's name, which its certificate must carry too. */
  readonly host: string;
  readonly listen: {
    /** Where callers with certificates are served, `host:port`. Default: 0.0.0.0:7443. */
    readonly address: string;
    /** The unix socket whose callers act as operators. Default: /run/drover/drover.sock. */
    readonly unix: string;
  };
  /** PEM files. */
  readonly tls: { readonly certificate: string; readonly key: string; readonly ca: string };
  readonly directories: {
    /** What must survive a reboot. Default: /var/lib/drover. */
    readonly state: string;
    /** Sockets and the like. Default: /run/drover. */
    readonly run: string;
  };
  readonly data: {
    /**
     * The host or IP address at which other hosts reach the data ports of this one. Default: the
     * host of `listen.address`; must be said where that is 0.0.0.0 or ::.
     */
    readonly address: string;
    /** The ports that disks arrive on, both ends included. Default: 49500 to 49599. */
    readonly ports: PortRange;
    /**
     * Where streams arrive, beside the data ports; 0 takes a free one at each start. Default: the
     * port after that of `listen.address`.
     */
    readonly streamPort: number;
  };
  readonly pools: readonly PoolConfig[];
  readonly kernels: readonly KernelConfig[];
  /** What network interfaces of domains may be connected to. Default: nothing. */
  readonly networks: Networks;
  /** The other hosts. An entry for this host itself is left out. */
  readonly peers: readonly PeerConfig[];
  /** What makes sure that another host runs nothing any more. Default: none. */
  readonly fence?: FenceConfig | undefined;
  /** What others may take of this host. */
  readonly limits: Limits;
  /** The link to the other hosts, and how migrations share it. */
  readonly link: LinkSettings;
  readonly qemu: {
    /**
     * The users that QEMUs run as, one for each domain, where the agent runs as root; nothing else
     * may be theirs. From 1000 to 4294967294. Default: 400000 to 465535.
     */
    readonly uids: UidRange;
  };
}

/** Ports from `first` to `last`, both included. */
interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** User ids from `first` to `last`, both included. */
interface UidRange {
  readonly first: number;
  readonly last: number;
}

/** A directory for images. */
interface PoolConfig {
  readonly name: string;
  readonly path: string;
  /** Whether the same directory is there on other hosts. Default: false. */
  readonly shared: boolean;
}

/** A kernel that domains may boot by name. */
export interface KernelConfig {
  readonly name: string;
  readonly kernel: string;
  /** Undefined where the kernel needs none. */
  readonly initrd: string | undefined;
  /** Put before the kernel arguments of a domain. Default: empty. */
  readonly arguments: string;
}

/** A command that fences another host. Exit code 0 says that it runs nothing any more. */
export interface FenceConfig {
  /** An absolute path. */
  readonly command: string;
  /** Put before the name of the host and the id of the migration. Default: none. */
  readonly arguments: readonly string[];
  /** Milliseconds, 1 to 600000, after which it is killed and has failed. Default: 60000. */
  readonly limitMs: number;
}

/** Another host. */
interface PeerConfig {
  readonly name: string;
  /** `host:port` */
  readonly address: string;
}

/**
 * Reads a configuration file. Paths in it are relative to the folder of the file.
 *
 * @throws ReasonedError `CONFIG_INVALID`, telling everything that is wrong at once
 */
export async function loadConfig(path: string): Promise<AgentConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const what = code === 'ENOENT' ? 'is not there' : `cannot be read (${code})`;
    throw new ReasonedError('CONFIG_INVALID', `The configuration ${path} ${what}.`, { cause });
  }
  return parseConfig(text, path);
}

/** The same for a text; the path is for messages and for relative paths. */
export function parseConfig(text: string, path: string): AgentConfig {
  const schema = schemaIn(dirname(resolve(path)));
  return toConfig(parseStrict(text, path, schema, { reason: 'CONFIG_INVALID' }));
}

/** Making a schema takes longer than reading a file by it. */
function schemaIn(folder: string): ReturnType<typeof configSchema> {
  if (lastSchema?.folder !== folder) lastSchema = { folder, schema: configSchema(folder) };
  return lastSchema.schema;
}

let lastSchema: { folder: string; schema: ReturnType<typeof configSchema> } | undefined;

function toConfig(file: z.output<ReturnType<typeof configSchema>>): AgentConfig {
  const { address } = file.listen;
  return {
    ...file,
    listen: { ...file.listen, address: formatAddress(address) },
    data: {
      ports: file.data.ports,
      address: file.data.address ?? address.host,
      streamPort: file.data.streamPort ?? address.port + 1,
    },
    kernels: file.kernels.map((kernel) => ({ ...kernel, initrd: kernel.initrd })),
    peers: file.peers
      .filter(({ name }) => name !== file.host)
      .map(({ name, address }) => ({ name, address: formatAddress(address) })),
  };
}

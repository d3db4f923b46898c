import { PSK_PRIORITY } from '../src/channel/psk.js';
import type { QmpClient } from '../src/qmp/client.js';
import type { MigrationCapability } from '../src/qmp/types.gen.js';

/** How a move by hand goes. */
export interface HandWay {
  /**
   * `best`: disks copied without zeros and what was never written, and written through at the end;
   * RAM on several connections. `defaults`: what QEMU does when nothing is said.
   */
  readonly options: 'best' | 'defaults';
  /** Over the network; without it, over unix sockets. */
  readonly network?: {
    /** Of the destination. */
    readonly address: string;
    readonly diskPort: number;
    readonly ramPort: number;
    readonly tls?: HandTls;
  };
}

/** A key that both QEMUs find in a folder, in the file that `tls-creds-psk` reads. */
export interface HandTls {
  readonly directory: string;
  readonly identity: string;
}

type Wait = { readonly signal: AbortSignal };

/** QEMU has no word for "as fast as it goes": this is 1 TiB/s. */
const UNLIMITED_BYTES_PER_S = 2 ** 40;
/** What the credentials are called: a QEMU is first at one end and then at the other. */
const TLS_SERVER = 'hand-tls-server';
export const TLS_CLIENT = 'hand-tls-client';
/** Connections for RAM. More than one core can fill do not help. */
const RAM_CHANNELS = 2;
const NEEDED: readonly MigrationCapability[] = ['events', 'return-path', 'pause-before-switchover'];

export function unixSocket(path: string) {
  return { type: 'unix', path } as const;
}

export function inetSocket(host: string, port: number) {
  return { type: 'inet', host, port: String(port) } as const;
}

type Socket = ReturnType<typeof unixSocket> | ReturnType<typeof inetSocket>;

/** Opens the destination's NBD server and, with TLS, gives both QEMUs the key. */
export async function startDiskServer(
  source: QmpClient,
  destination: QmpClient,
  socket: Socket,
  { network }: HandWay,
): Promise<void> {
  const { tls } = network ?? {};
  if (tls) {
    const common = { 'qom-type': 'tls-creds-psk', dir: tls.directory } as const;
    const priority = PSK_PRIORITY;
    const server = { ...common, id: TLS_SERVER, endpoint: 'server', priority } as const;
    await destination.execute('object-add', server);
    const client = { ...common, id: TLS_CLIENT, endpoint: 'client', priority } as const;
    await source.execute('object-add', { ...client, username: tls.identity });
  }
  const { type, ...data } = socket;
  await destination.execute('nbd-server-start', {
    addr: { type, data } as Parameters<typeof destination.execute<'nbd-server-start'>>[1]['addr'],
    ...(tls ? { 'tls-creds': TLS_SERVER } : {}),
  });
}

/** Sets both QEMUs up for one RAM stream. */
export async function setUpRam(
  source: QmpClient,
  destination: QmpClient,
  { options, network }: HandWay,
  downtimeLimitMs: number,
  wait: Wait,
): Promise<void> {
  // Over a unix socket, RAM arrives on the one connection that there is.
  const several = options === 'best' && network !== undefined;
  const extra: readonly MigrationCapability[] = several ? ['multifd'] : [];
  const on = [...NEEDED, ...extra].map((capability) => ({ capability, state: true }));
  await Promise.all([
    source.execute('migrate-set-capabilities', { capabilities: on }, wait),
    destination.execute(
      'migrate-set-capabilities',
      { capabilities: on.filter(({ capability }) => capability !== 'pause-before-switchover') },
      wait,
    ),
  ]);
  const both = (credentials: string) => ({
    ...(several ? { 'multifd-channels': RAM_CHANNELS } : {}),
    ...(network?.tls ? { 'tls-creds': credentials } : {}),
  });
  const speed = options === 'best' ? { 'max-bandwidth': UNLIMITED_BYTES_PER_S } : {};
  await Promise.all([
    source.execute(
      'migrate-set-parameters',
      { ...both(TLS_CLIENT), ...speed, 'downtime-limit': downtimeLimitMs },
      wait,
    ),
    destination.execute('migrate-set-parameters', both(TLS_SERVER), wait),
  ]);
}

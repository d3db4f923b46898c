import { connect } from 'node:net';
import { PSK_PRIORITY, PskFolder } from '../channel/psk.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import { deferred } from '../util/deferred.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { STEP_LIMIT_MS } from './faults.js';
import type { DiskServerAddress } from './launch-spec.js';
import type { Mirror } from './mirror.js';
import type { MirrorCarriages } from './mirror-carriage.js';
import { PSK_OBJECT } from './names.js';
import type { WaitOptions } from './types.js';

/** What is needed to start mirror jobs. */
export interface MirrorStart {
  readonly process: QemuProcess;
  /** Private folder of the domain, for the key. */
  readonly directory: string;
  readonly server: DiskServerAddress;
  readonly mirrors: readonly Mirror[];
  /** Carry what does not go from QEMU to QEMU. */
  readonly carriages: MirrorCarriages;
  /** Bytes per second for each; 0 is unlimited. */
  readonly speed: number;
  /** Of the link, in milliseconds, where it was measured. */
  readonly roundTripMs: number | undefined;
  /** True where QEMU has the key already. */
  readonly keyed: boolean;
  /** True for an image whose unallocated parts read as zeros on both sides. */
  isSparse(mirror: Mirror): boolean;
}

/** The fastest link that buffers are made for, in bytes per second. */
const FASTEST_LINK_BYTES_PER_S = 1.25e9;
/**
 * Four of QEMU's pieces, which keep a near link busy, and the largest that is worth its memory. All
 * that is on its way stands before the guest's own writes: with QEMU's default of 16 MiB a guest
 * that wrote without a pause got a fifth less done (docs/performance.md).
 */
const BUFFER_BYTES = { least: 4 * 1024 ** 2, most: 256 * 1024 ** 2 };

/**
 * How many bytes of a mirror may be on their way at once: twice what a fast link holds. Undefined,
 * for QEMU's default, where the round trip is not known.
 */
export function bufferBytes(roundTripMs: number | undefined): number | undefined {
  if (roundTripMs === undefined) return undefined;
  const wanted = Math.ceil((2 * FASTEST_LINK_BYTES_PER_S * roundTripMs) / 1000);
  return Math.min(BUFFER_BYTES.most, Math.max(BUFFER_BYTES.least, wanted));
}

/**
 * Starts mirror jobs, all at once. When one cannot be started, the others are left in any state.
 *
 * @throws DomainError `MIRROR_FAILED` when the disk server cannot be reached
 */
export async function startMirrors(start: MirrorStart, options: WaitOptions): Promise<void> {
  const { qmp } = start.process;
  if (start.server.transport === 'direct') {
    await assertReachable(start.server, options);
    if (!start.keyed) await addKey(qmp, start, options);
  }
  const started = start.mirrors.map((mirror) => startOne(qmp, mirror, start, options));
  // When one fails, the others must have come to rest before everything is removed again.
  await Promise.allSettled(started);
  await Promise.all(started);
}

/**
 * Connects and lets go again. QEMU waits for a connection with its main loop held, and with it the
 * guest's devices, for minutes where a firewall swallows the packets. Here nobody is held up.
 */
async function assertReachable(server: DiskServerAddress, options: WaitOptions): Promise<void> {
  const { address, port } = server;
  const unreachable = (cause?: unknown) =>
    new DomainError('MIRROR_FAILED', `The disk server on ${address}:${port} cannot be reached.`, {
      cause,
      facts: { address, port },
      hint: "Let this host reach the other one's data address on all ports of its range.",
    });
  using limit = withTimeout(options.signal, STEP_LIMIT_MS, unreachable);
  const connected = deferred();
  const socket = connect(port, address, connected.resolve);
  socket.on('error', (error) => connected.reject(unreachable(error)));
  try {
    await untilAborted(connected.promise, limit.signal);
  } finally {
    socket.destroy();
  }
}

async function addKey(
  qmp: QmpClient,
  { server, directory }: MirrorStart,
  options: WaitOptions,
): Promise<void> {
  const { pskIdentity: identity, psk: key } = server;
  // QEMU's client end reads the file while the object is made and never again.
  await using folder = await PskFolder.write(directory, { identity, key });
  await qmp.execute(
    'object-add',
    {
      'qom-type': 'tls-creds-psk',
      id: PSK_OBJECT,
      endpoint: 'client',
      dir: folder.path,
      username: identity,
      priority: PSK_PRIORITY,
    },
    options,
  );
}

async function startOne(
  qmp: QmpClient,
  mirror: Mirror,
  start: MirrorStart,
  options: WaitOptions,
): Promise<void> {
  const { server } = start;
  const place = await placeOf(mirror, start, options);
  const connected = qmp.execute(
    'blockdev-add',
    {
      driver: 'nbd',
      'node-name': mirror.target,
      ...place,
      export: mirror.exportName,
      // Without reconnecting: a mirror must never go on with a disk server that has forgotten its
      // past.
      'reconnect-delay': 0,
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    },
    options,
  );
  await connected.catch((error: unknown) => {
    throw error instanceof QmpError ? refusedBy(server, mirror, error) : error;
  });
  const buffer = bufferBytes(start.roundTripMs);
  await qmp.execute(
    'blockdev-mirror',
    {
      'job-id': mirror.job,
      device: mirror.image,
      target: mirror.target,
      // What neither image has need not be made zero first.
      sync: start.isSparse(mirror) ? 'top' : 'full',
      'copy-mode': 'background',
      // The verdict must outlive the event: it is read, and then dismissed.
      'auto-dismiss': false,
      // A job that ends by itself frees what a guest's write that is on its way to both images
      // still uses, and QEMU 10.0 dies of it with the guest. One that stops waits to be removed
      // safely.
      'on-source-error': 'stop',
      'on-target-error': 'stop',
      speed: start.speed,
      ...(buffer === undefined ? {} : { 'buf-size': buffer }),
    },
    options,
  );
}

/** Where QEMU connects to: the disk server itself, or this end of the stream to it. */
async function placeOf(mirror: Mirror, { server, carriages }: MirrorStart, options: WaitOptions) {
  if (server.transport === 'stream') {
    return { server: { type: 'unix', path: await carriages.open(mirror, options) } } as const;
  }
  const { address: host, port } = server;
  return { server: { type: 'inet', host, port: String(port) }, 'tls-creds': PSK_OBJECT } as const;
}

/** What QEMU says here is of the other end: the arguments are always the same. */
function refusedBy({ address, port }: DiskServerAddress, mirror: Mirror, error: QmpError) {
  const { diskId: disk } = mirror;
  return new DomainError(
    'MIRROR_FAILED',
    `The disk server on ${address}:${port} did not take the disk "${disk}": ${error.description}`,
    {
      cause: error,
      side: 'destination',
      facts: { address, port, disk, qemu_error: error.description },
    },
  );
}

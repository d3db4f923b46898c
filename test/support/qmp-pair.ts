import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Launcher } from '../../src/process/launcher.js';
import { QemuProcess } from '../../src/process/qemu-process.js';
import type { QmpClient } from '../../src/qmp/client.js';
import type { MigrationStatus } from '../../src/qmp/types.gen.js';

const PAIR_UUID = '5d0c7c1e-0d3a-4f6b-9c55-7b1a3a1f0001';
const DISK_BYTES = 4 * 1024 * 1024;
const LIMIT_MS = 20_000;
const KEY = '00112233445566778899aabbccddeeff';

/** What differs from the usual pair. */
export interface PairOptions {
  /** The source's guest was never started. */
  readonly stopped?: boolean;
  readonly destinationDiskBytes?: number;
  readonly destinationUuid?: string;
}

/** One side of a pair with everything it said. */
export interface Side {
  readonly qemu: QemuProcess;
  readonly qmp: QmpClient;
  /** Events in order: the name, and what of the data matters. */
  readonly events: string[];
}

/** Two QEMUs, fake or real, as for a migration of one 4 MiB disk and 64 MiB of RAM between them. */
export interface Pair extends AsyncDisposable {
  readonly source: Side;
  readonly destination: Side;
  /** Holds `keys/keys.psk` for both sides, and `wrong/keys.psk` with another key. */
  readonly directory: string;
  readonly port: number;
  readonly signal: AbortSignal;
}

/** Starts a pair. Whoever gets it disposes of it, which ends both and removes their files. */
export async function startPair(
  launcher: Launcher,
  binary: string,
  options: PairOptions = {},
): Promise<Pair> {
  const directory = mkdtempSync(join(tmpdir(), 'drover-pair-'));
  writeKeys(join(directory, 'keys'), KEY);
  writeKeys(join(directory, 'wrong'), KEY.replaceAll('0', '1'));
  const sides: Side[] = [];
  const end = async () => {
    for (const side of sides) await side.qemu.kill();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    const start = (name: string, uuid: string, diskBytes: number, argv: readonly string[]) =>
      startSide(launcher, binary, { directory, name, uuid, diskBytes, argv });
    sides.push(await start('s', PAIR_UUID, DISK_BYTES, options.stopped ? ['-S'] : []));
    sides.push(
      await start(
        'd',
        options.destinationUuid ?? PAIR_UUID,
        options.destinationDiskBytes ?? DISK_BYTES,
        ['-S', '-incoming', 'defer'],
      ),
    );
    return {
      source: sides[0] as Side,
      destination: sides[1] as Side,
      directory,
      port: await freePort(),
      signal: AbortSignal.timeout(LIMIT_MS),
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}

async function startSide(
  launcher: Launcher,
  binary: string,
  side: {
    readonly directory: string;
    readonly name: string;
    readonly uuid: string;
    readonly diskBytes: number;
    readonly argv: readonly string[];
  },
): Promise<Side> {
  const image = join(side.directory, `${side.name}.img`);
  writeFileSync(image, '');
  truncateSync(image, side.diskBytes);
  const events: string[] = [];
  const file = { driver: 'file', 'node-name': 'file0', filename: image, discard: 'unmap' };
  const format = { driver: 'raw', 'node-name': 'disk0', file: 'file0', discard: 'unmap' };
  const device = { driver: 'virtio-blk-pci', id: 'vda', drive: 'disk0' };
  const qemu = await QemuProcess.start(
    launcher,
    {
      binary,
      uuid: side.uuid,
      name: `pair-${side.name}`,
      directory: join(side.directory, side.name),
      argv: [
        ...['-machine', 'q35,accel=tcg', '-m', '64'],
        ...['-blockdev', JSON.stringify(file), '-blockdev', JSON.stringify(format)],
        ...['-device', JSON.stringify(device), ...side.argv],
      ],
    },
    {
      limitMs: LIMIT_MS,
      transcript: (direction, message) => {
        const event = direction === 'received' ? describeEvent(message) : undefined;
        if (event !== undefined) events.push(event);
      },
    },
  );
  return { qemu, qmp: qemu.qmp, events };
}

/** Passes depend on how busy the guest is, so they are left out. */
function describeEvent(message: unknown): string | undefined {
  const { event, data } = message as { event?: string; data?: Record<string, unknown> };
  if (event === undefined || event === 'MIGRATION_PASS') return undefined;
  const details = ['status', 'id', 'device', 'reason'].flatMap((key) => data?.[key] ?? []);
  const failed = data?.['error'] === undefined ? [] : ['error'];
  return [event, ...details, ...failed].join(' ');
}

function writeKeys(folder: string, key: string): void {
  mkdirSync(folder, { mode: 0o700 });
  writeFileSync(join(folder, 'keys.psk'), `pair:${key}\n`, { mode: 0o600 });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address ? address.port : 0;
}

/** Opens the destination's disk to who has the key. */
export async function exportDisk(pair: Pair): Promise<void> {
  const { qmp } = pair.destination;
  await qmp.execute('object-add', {
    'qom-type': 'tls-creds-psk',
    id: 'tls0',
    dir: join(pair.directory, 'keys'),
    endpoint: 'server',
  });
  const addr = { type: 'inet', data: { host: '127.0.0.1', port: String(pair.port) } } as const;
  await qmp.execute('nbd-server-start', { addr, 'tls-creds': 'tls0' });
  await qmp.execute('block-export-add', {
    type: 'nbd',
    id: 'export0',
    'node-name': 'disk0',
    name: 'nonce0',
    writable: true,
  });
}

/** Connects the source to the exported disk, rightly or in a wrong way. */
export async function addTarget(
  pair: Pair,
  wrong: { readonly key?: boolean; readonly exportName?: boolean; readonly tls?: boolean } = {},
): Promise<void> {
  const { qmp } = pair.source;
  const id = wrong.key ? 'tls-wrong' : 'tls0';
  await qmp.execute('object-add', {
    'qom-type': 'tls-creds-psk',
    id,
    dir: join(pair.directory, wrong.key ? 'wrong' : 'keys'),
    endpoint: 'client',
    username: 'pair',
  });
  try {
    await qmp.execute('blockdev-add', {
      driver: 'nbd',
      'node-name': 'target0',
      server: { type: 'inet', host: '127.0.0.1', port: String(pair.port) },
      export: wrong.exportName ? 'nonce1' : 'nonce0',
      ...(wrong.tls === false ? {} : { 'tls-creds': id }),
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    });
  } catch (error) {
    await qmp.execute('object-del', { id });
    throw error;
  }
}

/** Starts the mirror and waits until it is ready. */
export async function mirrorDisk(pair: Pair): Promise<void> {
  await exportDisk(pair);
  await addTarget(pair);
  using ready = pair.source.qmp.listen('BLOCK_JOB_READY');
  await startMirror(pair);
  await ready.next({ signal: pair.signal });
}

/** Starts the mirror only. */
export async function startMirror(pair: Pair): Promise<void> {
  await pair.source.qmp.execute('blockdev-mirror', {
    'job-id': 'mirror0',
    device: 'disk0',
    target: 'target0',
    sync: 'full',
    'copy-mode': 'background',
    'auto-dismiss': false,
    'on-source-error': 'report',
    'on-target-error': 'report',
  });
}

/**
 * Starts the migration of RAM and waits for a status of the source. At `crawl` it does not get to
 * its end.
 */
export async function migrateUntil(
  pair: Pair,
  status: MigrationStatus,
  options: { readonly crawl?: boolean } = {},
): Promise<void> {
  const { source, destination } = pair;
  for (const side of [destination, source]) await setCapabilities(side);
  await source.qmp.execute('migrate-set-parameters', {
    'max-bandwidth': options.crawl ? 100_000 : 2 ** 40,
  });
  const uri = ramUri(pair);
  await destination.qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
  using events = source.qmp.listen('MIGRATION');
  await source.qmp.execute('migrate', { uri });
  await events.next((event) => event.data.status === status, { signal: pair.signal });
}

export async function setCapabilities(side: Side): Promise<void> {
  const wanted = ['events', 'return-path', 'pause-before-switchover', 'validate-uuid'] as const;
  await side.qmp.execute('migrate-set-capabilities', {
    capabilities: wanted.map((capability) => ({ capability, state: true })),
  });
}

/** Where the RAM goes through. */
export function ramUri(pair: Pair): string {
  return `unix:${join(pair.directory, 'ram.sock')}`;
}

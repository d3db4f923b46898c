import { randomBytes, randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { makePsk, PSK_PRIORITY, PskFolder } from '../channel/psk.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import { readServerFile, writeServerFile } from './disk-server-file.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { DiskServerAddress } from './launch-spec.js';
import { exportId, imageNode, PSK_OBJECT } from './names.js';
import type { WaitOptions } from './types.js';

/** Where the NBD servers of this host may listen. */
export interface DataAddress {
  readonly address: string;
  /** First and last port. */
  readonly ports: readonly [first: number, last: number];
}

/** What an NBD server needs. */
export interface DiskServerParts {
  readonly qmp: QmpClient;
  /** Private folder of the domain, for the key. */
  readonly directory: string;
  readonly data: DataAddress;
  /** Name of the key, new for each incoming QEMU. */
  readonly pskIdentity: string;
  readonly diskIds: readonly string[];
}

/** Ports tried before giving up. */
const PORT_TRIES = 8;

/** Connections for each disk: its mirror's, and one more while a lost one is not noticed yet. */
const CONNECTIONS_PER_DISK = 2;

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * The NBD server of an incoming QEMU: one writable export for each disk, behind a key of this
 * migration.
 */
export class DiskServer {
  readonly address: DiskServerAddress;
  readonly #qmp: QmpClient;
  readonly #key: PskFolder | undefined;
  #stopped: boolean;

  private constructor(qmp: QmpClient, address: DiskServerAddress, key?: PskFolder) {
    this.#qmp = qmp;
    this.address = address;
    this.#key = key;
    this.#stopped = key === undefined;
  }

  /**
   * Opens the server on a free port and exports the disks. Without disks nothing is opened, and the
   * port is 0.
   *
   * @throws DomainError `NO_PORT`
   */
  static async start(parts: DiskServerParts, options: WaitOptions): Promise<DiskServer> {
    const { qmp } = parts;
    const psk = makePsk(parts.pskIdentity);
    const { address } = parts.data;
    const common = { address, pskIdentity: psk.identity, psk: psk.key };
    if (parts.diskIds.length === 0) {
      return new DiskServer(qmp, { ...common, port: 0, exports: [] });
    }
    // The server reads the file at every handshake, so it stays until the server stops.
    const key = await PskFolder.write(parts.directory, psk);
    try {
      await qmp.execute(
        'object-add',
        {
          'qom-type': 'tls-creds-psk',
          id: PSK_OBJECT,
          endpoint: 'server',
          dir: key.path,
          priority: PSK_PRIORITY,
        },
        options,
      );
      const port = await listen(parts, options);
      const exports = await Promise.all(
        parts.diskIds.map(async (diskId) => {
          // Nobody can guess the name, and a mirror can never go on with another server's export of
          // the same disk.
          const exportName = randomBytes(16).toString('hex');
          await qmp.execute(
            'block-export-add',
            {
              type: 'nbd',
              id: exportId(diskId),
              'node-name': imageNode(diskId),
              name: exportName,
              writable: true,
            },
            options,
          );
          return { diskId, exportName };
        }),
      );
      const server = new DiskServer(qmp, { ...common, port, exports }, key);
      // Before anybody hears of the server, so that every life of the agent can tell the same.
      await writeServerFile(parts.directory, server.address);
      return server;
    } catch (error) {
      await key.remove();
      throw error;
    }
  }

  /**
   * Finds the server that an earlier life of the agent opened, running or stopped. Of one that
   * nobody can have heard of nothing is left, and the answer is undefined.
   */
  static async find(parts: DiskServerParts, options: WaitOptions): Promise<DiskServer | undefined> {
    const { qmp, directory, diskIds } = parts;
    if (diskIds.length === 0) return undefined;
    const step = { ...STEP, ...options };
    const [known, key, exports] = await Promise.all([
      readServerFile(directory),
      PskFolder.find(directory),
      qmp.execute('query-block-exports', {}, step),
    ]);
    const served = diskIds.every((diskId) => exports.some(({ id }) => id === exportId(diskId)));
    if (known && key?.psk.identity === known.pskIdentity && served) {
      return new DiskServer(qmp, { ...known, psk: key.psk.key }, key.folder);
    }
    // It was stopped already, or only half opened.
    const attempts = [
      qmp.execute('nbd-server-stop', {}, step),
      qmp.execute('object-del', { id: PSK_OBJECT }, step),
    ];
    for (const attempt of attempts) await attempt.catch(unlessRefused);
    await key?.folder.remove();
    if (!known || exports.length > 0) return undefined;
    return new DiskServer(qmp, { ...known, psk: new Uint8Array() });
  }

  /**
   * Stops the server and makes sure that no export is left: QEMU would let the guest run beside a
   * stranger's writes.
   *
   * @throws DomainError `INTERNAL` when an export is still there
   */
  async stop(options: WaitOptions): Promise<void> {
    if (this.#stopped) return;
    const step = { ...STEP, ...options };
    // All at once: QEMU takes them in this order, and the guest is paused meanwhile.
    const [, exports] = await Promise.all([
      this.#qmp.execute('nbd-server-stop', {}, step),
      this.#qmp.execute('query-block-exports', {}, step),
      this.#qmp.execute('object-del', { id: PSK_OBJECT }, step),
      this.#key?.remove(),
    ]);
    if (exports.length > 0) {
      throw new DomainError(
        'INTERNAL',
        `QEMU still exports ${exports.map(({ id }) => id).join(', ')} though its NBD server has stopped.`,
        { side: 'destination' },
      );
    }
    this.#stopped = true;
  }

  /** Removes the key of a server whose QEMU is about to go. Never throws. */
  async abandon(report: ReportProblem): Promise<void> {
    await this.#key?.remove().catch((error) => report('remove the key', error));
  }
}

/**
 * Lets QEMU listen on a port of the range; several agents of one machine begin at different places
 * of it.
 */
async function listen(parts: DiskServerParts, options: WaitOptions): Promise<number> {
  const { qmp, data, diskIds } = parts;
  const [first, last] = data.ports;
  const count = last - first + 1;
  const offset = randomInt(count);
  let cause: unknown;
  for (let index = 0, tries = 0; index < count && tries < PORT_TRIES; index++) {
    const port = first + ((offset + index) % count);
    cause = await bindError(data.address, port);
    if (cause !== undefined) {
      // A wrong address is wrong for every port.
      if ((cause as NodeJS.ErrnoException).code === 'EADDRNOTAVAIL') break;
      tries++;
      continue;
    }
    try {
      await qmp.execute(
        'nbd-server-start',
        {
          addr: { type: 'inet', data: { host: data.address, port: String(port) } },
          'tls-creds': PSK_OBJECT,
          'max-connections': diskIds.length * CONNECTIONS_PER_DISK,
        },
        options,
      );
      return port;
    } catch (error) {
      // Somebody may have taken the port in between. If it is free, QEMU meant something else.
      if (!(error instanceof QmpError) || !(await bindError(data.address, port))) throw error;
      cause = error;
      tries++;
    }
  }
  throw new DomainError(
    'NO_PORT',
    `No port from ${first} to ${last} could be opened on ${data.address}.`,
    {
      cause,
      side: 'destination',
      facts: { address: data.address, first_port: first, last_port: last },
    },
  );
}

/** QEMU refuses to stop what does not run, and to remove what is not there. */
function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

/** Binds a port and lets it go again: undefined if that worked. */
function bindError(host: string, port: number): Promise<Error | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', resolve);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}

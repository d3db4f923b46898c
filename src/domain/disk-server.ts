import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makePsk, PSK_PRIORITY, PskFolder } from '../channel/psk.js';
import type { Carriage } from '../channel/types.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import { type DataDoors, makeTicket, openPort } from './data-ports.js';
import { readServerFile, writeServerFile } from './disk-server-file.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { TransportOptions } from './incoming-types.js';
import type { DiskExport, DiskServerAddress } from './launch-spec.js';
import { exportId, imageNode, PSK_OBJECT } from './names.js';
import type { WaitOptions } from './types.js';

/** What an NBD server needs. */
export interface DiskServerParts {
  readonly qmp: QmpClient;
  /** Private folder of the domain, for the key or the socket. */
  readonly directory: string;
  readonly doors: DataDoors;
  readonly diskIds: readonly string[];
}

/** What a server has besides QEMU. */
interface Belongings {
  /** Of a server on a port. */
  readonly key?: PskFolder | undefined;
  /** Of a server behind the data door, in this life of the agent. */
  readonly carriages?: readonly Carriage[];
  readonly stopped?: boolean;
}

/** Connections for each disk: its mirror's, and one more while a lost one is not noticed yet. */
const CONNECTIONS_PER_DISK = 2;

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * The NBD server of an incoming QEMU, with one writable export for each disk: on a port, behind a
 * key of this migration; or on a unix socket, behind the data door.
 */
export class DiskServer {
  readonly address: DiskServerAddress;
  readonly #qmp: QmpClient;
  readonly #key: PskFolder | undefined;
  readonly #carriages: readonly Carriage[] | undefined;
  #stopped: boolean;

  private constructor(qmp: QmpClient, address: DiskServerAddress, own: Belongings) {
    this.#qmp = qmp;
    this.address = address;
    this.#key = own.key;
    this.#carriages = own.carriages;
    this.#stopped = own.stopped ?? false;
  }

  /**
   * Opens the server and exports the disks. Without disks nothing is opened, and the port is 0.
   *
   * @throws DomainError `NO_PORT`
   */
  static async start(parts: DiskServerParts, options: TransportOptions): Promise<DiskServer> {
    const { qmp, diskIds, doors } = parts;
    if (diskIds.length === 0) {
      const { host, data } = doors;
      const nowhere = { ...NO_KEY, host, address: data.address, port: 0, exports: [] };
      return new DiskServer(qmp, { ...nowhere, transport: options.transport }, { stopped: true });
    }
    return options.transport === 'direct'
      ? await DiskServer.#startDirect(parts, options)
      : await DiskServer.#startBehindDoor(parts, options);
  }

  static async #startDirect(parts: DiskServerParts, options: WaitOptions): Promise<DiskServer> {
    const { qmp, directory, diskIds, doors } = parts;
    const { host, data } = doors;
    const psk = makePsk(doors.pskIdentity);
    // The server reads the file at every handshake, so it stays until the server stops.
    const key = await PskFolder.write(directory, psk);
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
      const { port } = await openPort(data, (candidate) =>
        qmp.execute(
          'nbd-server-start',
          {
            addr: { type: 'inet', data: { host: data.address, port: String(candidate) } },
            'tls-creds': PSK_OBJECT,
            'max-connections': diskIds.length * CONNECTIONS_PER_DISK,
          },
          options,
        ),
      );
      const exports = await exportAll(parts, options);
      const where = { transport: 'direct', host, address: data.address, port } as const;
      const secret = { pskIdentity: psk.identity, psk: psk.key };
      const server = new DiskServer(qmp, { ...where, ...secret, exports }, { key });
      // Before anybody hears of the server, so that every life of the agent can tell the same.
      await writeServerFile(directory, server.address);
      return server;
    } catch (error) {
      await key.remove();
      throw error;
    }
  }

  static async #startBehindDoor(parts: DiskServerParts, options: WaitOptions): Promise<DiskServer> {
    const { qmp, directory, diskIds, doors } = parts;
    const path = join(directory, 'disks.sock');
    await rm(path, { force: true });
    await qmp.execute(
      'nbd-server-start',
      {
        addr: { type: 'unix', data: { path } },
        'max-connections': diskIds.length * CONNECTIONS_PER_DISK,
      },
      options,
    );
    const named = await exportAll(parts, options);
    const door = await doors.carrier.door(options);
    const exports = named.map((one) => ({ ...one, ticket: makeTicket() }));
    const address = { transport: 'stream', host: doors.host, ...door, ...NO_KEY, exports } as const;
    // The next life of the agent learns from it that the disks came through this one.
    await writeServerFile(directory, address);
    const carriages = exports.map(({ ticket }) =>
      doors.carrier.expect(ticket, doors.sourceHost, path),
    );
    return new DiskServer(qmp, address, { carriages });
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
    if (known?.transport === 'stream' && served) {
      return new DiskServer(qmp, { ...known, psk: NO_KEY.psk }, {});
    }
    if (known && key?.psk.identity === known.pskIdentity && served) {
      return new DiskServer(qmp, { ...known, psk: key.psk.key }, { key: key.folder });
    }
    // It was stopped already, or only half opened.
    const attempts = [
      qmp.execute('nbd-server-stop', {}, step),
      qmp.execute('object-del', { id: PSK_OBJECT }, step),
    ];
    for (const attempt of attempts) await attempt.catch(unlessRefused);
    await key?.folder.remove();
    if (!known || exports.length > 0) return undefined;
    return new DiskServer(qmp, { ...known, psk: NO_KEY.psk }, { stopped: true });
  }

  /** True where the blocks came through an earlier life of the agent: none can come any more. */
  get lost(): boolean {
    return this.address.transport === 'stream' && this.#carriages === undefined && !this.#stopped;
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
      ...(this.#key ? [this.#qmp.execute('object-del', { id: PSK_OBJECT }, step)] : []),
      this.#key?.remove(),
    ] as const);
    this.#reset('The disks have all that was sent.');
    if (exports.length > 0) {
      throw new DomainError(
        'INTERNAL',
        `QEMU still exports ${exports.map(({ id }) => id).join(', ')} though its NBD server has stopped.`,
        { side: 'destination' },
      );
    }
    this.#stopped = true;
  }

  /** Removes what a server whose QEMU is about to go has besides it. Never throws. */
  async abandon(report: ReportProblem): Promise<void> {
    this.#reset('The incoming domain is given up.');
    await this.#key?.remove().catch((error) => report('remove the key', error));
  }

  #reset(why: string): void {
    for (const carriage of this.#carriages ?? []) carriage.reset(new Error(why));
  }
}

const NO_KEY = { pskIdentity: '', psk: new Uint8Array() };

function exportAll(
  { qmp, diskIds }: DiskServerParts,
  options: WaitOptions,
): Promise<readonly DiskExport[]> {
  const exported = diskIds.map(async (diskId) => {
    // Nobody can guess the name, and a mirror can never go on with another server's export of the
    // same disk.
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
    return { diskId, exportName, ticket: '' };
  });
  return Promise.all(exported);
}

/** QEMU refuses to stop what does not run, and to remove what is not there. */
function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

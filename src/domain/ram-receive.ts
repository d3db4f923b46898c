import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makePsk, PSK_PRIORITY, PskFolder } from '../channel/psk.js';
import { TicketDoor } from '../channel/ticket-door.js';
import type { Carriage } from '../channel/types.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpError } from '../qmp/errors.js';
import type { MigrateArgumentsChannelsItemAddr as MigrationAddress } from '../qmp/types.gen.js';
import { deferred } from '../util/deferred.js';
import { type DataDoors, makeTicket, openPort } from './data-ports.js';
import { readRamFile, removeRamFile, writeRamFile } from './disk-server-file.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { TransportOptions } from './incoming-types.js';
import type { RamServerAddress } from './launch-spec.js';
import { RAM_SERVER_KEY, RAM_SOCKET } from './names.js';
import { forgetCredentials, setUpIncomingStream } from './stream-settings.js';
import type { WaitOptions } from './types.js';

/** What preparing a QEMU for its RAM needs. */
export interface RamReceiveParts {
  readonly qmp: QmpClient;
  /** Private folder of the QEMU, for the key or the socket, whose path fits into 107 bytes. */
  readonly directory: string;
  readonly doors: DataDoors;
}

/** The folder of the key; the disks' key has another one. */
const KEY_FOLDER = 'ram-psk';

const STEP = { limitMs: STEP_LIMIT_MS };

/** What takes RAM besides QEMU. */
interface Belongings {
  readonly key?: PskFolder | undefined;
  /** Where the source's QEMU is awaited, until it has come. */
  readonly door?: TicketDoor | undefined;
  readonly carriage?: Carriage;
}

/**
 * How an incoming QEMU takes its RAM: from the source's QEMU, behind a key made for it, on a
 * connection that both agents make; or on a unix socket, behind the data door. It takes it once,
 * whatever comes of that.
 */
export class QemuRamReceive {
  readonly address: RamServerAddress;
  readonly #qmp: QmpClient;
  readonly #directory: string;
  readonly #key: PskFolder | undefined;
  readonly #carriage: Carriage | undefined;
  readonly #door: TicketDoor | undefined;
  /** Rejects when QEMU could not be given the connection. */
  readonly #broken = deferred<never>();

  private constructor(
    { qmp, directory }: RamReceiveParts,
    address: RamServerAddress,
    own: Belongings,
  ) {
    this.#qmp = qmp;
    this.#directory = directory;
    this.address = address;
    this.#key = own.key;
    this.#carriage = own.carriage;
    this.#door = own.door;
    this.#broken.promise.catch(() => undefined);
    if (own.door) void this.#take(own.door);
    // Without QEMU, or this life of the agent, there is nobody to come to.
    void qmp.closed.then(() => own.door?.close());
  }

  /**
   * Prepares QEMU, and runs `migrate-incoming` when it has somebody to take RAM from.
   *
   * @throws DomainError `NO_PORT`
   */
  static async start(parts: RamReceiveParts, options: TransportOptions): Promise<QemuRamReceive> {
    return options.transport === 'direct'
      ? await QemuRamReceive.#startDirect(parts, options)
      : await QemuRamReceive.#startBehindDoor(parts, options);
  }

  static async #startDirect(parts: RamReceiveParts, options: WaitOptions): Promise<QemuRamReceive> {
    const { qmp, directory, doors } = parts;
    const { host, data } = doors;
    // The name tells this place apart from those of earlier QEMUs that waited for the guest.
    const psk = makePsk(`${doors.pskIdentity}.${randomBytes(4).toString('hex')}`);
    const key = await PskFolder.write(directory, psk, KEY_FOLDER);
    let door: TicketDoor | undefined;
    try {
      // An earlier life of the agent may have ended between two of these steps.
      await qmp.execute('object-del', { id: RAM_SERVER_KEY }, options).catch(unlessRefused);
      await qmp.execute(
        'object-add',
        {
          'qom-type': 'tls-creds-psk',
          id: RAM_SERVER_KEY,
          endpoint: 'server',
          dir: key.path,
          priority: PSK_PRIORITY,
        },
        options,
      );
      await setUpIncomingStream(qmp, RAM_SERVER_KEY, options);
      const ticket = makeTicket();
      const opened = await openPort(data, (port) => TicketDoor.open(data.address, port, ticket));
      const address = {
        transport: 'direct',
        host,
        address: data.address,
        port: opened.port,
        pskIdentity: psk.identity,
        psk: psk.key,
        ticket,
      } as const;
      door = opened.result;
      await writeRamFile(directory, address);
      return new QemuRamReceive(parts, address, { key, door });
    } catch (error) {
      door?.close();
      await key.remove();
      throw error;
    }
  }

  static async #startBehindDoor(
    parts: RamReceiveParts,
    options: WaitOptions,
  ): Promise<QemuRamReceive> {
    const { qmp, directory, doors } = parts;
    const path = join(directory, 'ram-in.sock');
    await rm(path, { force: true });
    await setUpIncomingStream(qmp, '', options);
    const door = await doors.carrier.door(options);
    const address = {
      transport: 'stream',
      host: doors.host,
      ...door,
      ...NO_KEY,
      ticket: makeTicket(),
    } as const;
    // The next life of the agent learns from it that the RAM came through this one.
    await writeRamFile(directory, address);
    await receive(qmp, { transport: 'socket', type: 'unix', path }, options);
    const carriage = doors.carrier.expect(address.ticket, doors.sourceHost, path);
    return new QemuRamReceive(parts, address, { carriage });
  }

  /**
   * Finds what an earlier life of the agent prepared; undefined where it had not begun. Where the
   * RAM was to come through that agent there is no more use in it.
   */
  static async find(
    parts: RamReceiveParts,
    options: WaitOptions,
  ): Promise<QemuRamReceive | undefined> {
    const { qmp, directory, doors } = parts;
    const [{ status = 'none' }, known, key] = await Promise.all([
      qmp.execute('query-migrate', {}, { ...STEP, ...options }),
      readRamFile(directory),
      PskFolder.find(directory, KEY_FOLDER),
    ]);
    if (known?.transport === 'direct' && key?.psk.identity === known.pskIdentity) {
      const { address, port, ticket } = known;
      const own = { key: key.folder };
      const server = { ...known, psk: key.psk.key };
      if (status !== 'none') return new QemuRamReceive(parts, server, own);
      // Nobody has come yet, and may come now.
      const door = await TicketDoor.open(address, port, ticket).catch(() => undefined);
      if (door) return new QemuRamReceive(parts, server, { ...own, door });
    }
    if (!known && status === 'none') return undefined;
    const nowhere = { host: doors.host, address: '', port: 0, ticket: '' };
    return new QemuRamReceive(parts, { ...nowhere, ...NO_KEY, transport: 'stream' }, {});
  }

  /** True where the RAM came through an earlier life of the agent: no more can come. */
  get lost(): boolean {
    return this.address.transport === 'stream' && this.#carriage === undefined;
  }

  /**
   * Resolves, never rejects, when a stream has come and both its directions have ended. What comes
   * from QEMU to QEMU is not seen here: then it never does.
   */
  get over(): Promise<void> {
    if (this.lost) return Promise.resolve();
    if (!this.#carriage) return new Promise(() => undefined);
    return this.#carriage.done.then(
      () => undefined,
      () => undefined,
    );
  }

  /**
   * Whether the stream broke or ended before QEMU had what it needs: then QEMU is not to blame.
   * Until it has done with the stream, well or badly, QEMU says nothing on the way back. Undefined
   * where nobody here can see that, because the bytes go from QEMU to QEMU.
   */
  get streamEnded(): boolean | undefined {
    if (this.address.transport === 'direct') return undefined;
    if (!this.#carriage) return true;
    return this.#carriage.endedFirst === 'stream' && this.#carriage.answeredBytes === 0;
  }

  /** Rejects, with `RAM_FAILED`, when a connection came and QEMU could not be given it. */
  get broken(): Promise<never> {
    return this.#broken.promise;
  }

  /** Bytes that have come and gone through this agent; undefined where they do not. */
  get carriedBytes(): number | undefined {
    return this.#carriage?.carriedBytes;
  }

  /** Breaks the stream, as far as it comes through this agent, and lets nobody come any more. */
  reset(reason: Error): void {
    this.#carriage?.reset(reason);
    this.#door?.close();
  }

  /** QEMU gets the connection of whoever came with the ticket. */
  async #take(door: TicketDoor): Promise<void> {
    const socket = await door.came.catch(() => undefined);
    if (!socket) return;
    try {
      await this.#qmp.handOver(socket, RAM_SOCKET, STEP);
      await receive(this.#qmp, { transport: 'socket', type: 'fd', str: RAM_SOCKET });
    } catch (cause) {
      const message = 'QEMU on the destination could not be given the connection for the RAM.';
      this.#broken.reject(new DomainError('RAM_FAILED', message, { cause, side: 'destination' }));
    }
  }

  /** Removes the key from a QEMU that has its RAM, and all that was written of it. Never throws. */
  async close(report: ReportProblem): Promise<void> {
    if (this.#key) {
      const steps = [
        forgetCredentials(this.#qmp, STEP),
        this.#qmp.execute('object-del', { id: RAM_SERVER_KEY }, STEP).catch(unlessRefused),
      ];
      await Promise.all(steps).catch((error) => report('remove the key of the RAM', error));
    }
    await this.abandon(report);
  }

  /** Removes what was written of one whose QEMU is about to go. Never throws. */
  async abandon(report: ReportProblem): Promise<void> {
    this.reset(new Error('The RAM stream is over.'));
    const removed = [this.#key?.remove(), removeRamFile(this.#directory)];
    await Promise.all(removed).catch((error) => report('remove the key of the RAM', error));
  }
}

const NO_KEY = { pskIdentity: '', psk: new Uint8Array() };

async function receive(
  qmp: QmpClient,
  addr: MigrationAddress,
  options: Partial<WaitOptions> = {},
): Promise<void> {
  await qmp.execute(
    'migrate-incoming',
    {
      channels: [{ 'channel-type': 'main', addr }],
      // A QEMU that stays can still be asked what was wrong.
      'exit-on-error': false,
    },
    { ...STEP, ...options },
  );
}

function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

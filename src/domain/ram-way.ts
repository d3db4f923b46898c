import { join } from 'node:path';
import { PSK_PRIORITY, PskFolder } from '../channel/psk.js';
import { bringTicket } from '../channel/ticket-door.js';
import type { Carriage, Carrier } from '../channel/types.js';
import type { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpError } from '../qmp/errors.js';
import type {
  MigrateArgumentsChannelsItemAddr as MigrationAddress,
  MigrationStatus,
} from '../qmp/types.gen.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { RamServerAddress } from './launch-spec.js';
import { RAM_CLIENT_KEYS, RAM_SOCKET, ramClientKey } from './names.js';
import { forgetCredentials } from './stream-settings.js';
import type { WaitOptions } from './types.js';

/** What the way to the destination's place needs. */
export interface RamWayParts {
  readonly qmp: QmpClient;
  /** Private folder of the domain, for the key or the socket, whose path fits into 107 bytes. */
  readonly directory: string;
  readonly server: RamServerAddress;
  readonly carrier: Carrier;
}

/** A way, and what QEMU is told to send to. */
export interface OpenedWay {
  readonly way: RamWay;
  readonly address: MigrationAddress;
}

/** The folder of the key, while QEMU reads it; the disks' key has another one. */
export const RAM_KEY_FOLDER = 'ram-psk';

/** Statuses of a migration on which QEMU works, and has not paused the guest. */
const SENDING: readonly (MigrationStatus | undefined)[] = ['setup', 'active', 'wait-unplug'];

const STEP = { limitMs: STEP_LIMIT_MS };

/** How the RAM of a QEMU gets to the place where the destination takes it. */
export class RamWay {
  /** The id of the TLS credentials; empty where QEMU needs none. */
  readonly credentials: string;
  /** Of what goes through this agent. */
  readonly carriage: Carriage | undefined;
  readonly #qmp: QmpClient;

  private constructor(qmp: QmpClient, credentials: string, carriage?: Carriage) {
    this.#qmp = qmp;
    this.credentials = credentials;
    this.carriage = carriage;
  }

  /** The way from QEMU to QEMU, where QEMU has its key and its connection already. */
  static found(qmp: QmpClient, server: RamServerAddress): RamWay {
    return new RamWay(qmp, ramClientKey(server.pskIdentity));
  }

  /**
   * Prepares the way. For the one from QEMU to QEMU this agent makes the connection and hands it
   * on: QEMU would wait for it, and for TLS, with its main loop held, and the guest's devices.
   *
   * @throws DomainError `RAM_FAILED` where nobody takes the connection; and what `carry` throws
   */
  static async open(parts: RamWayParts, options: WaitOptions): Promise<OpenedWay> {
    const { qmp, directory, server, carrier } = parts;
    if (server.transport === 'stream') {
      const path = join(directory, 'ram.sock');
      const way = new RamWay(qmp, '', await carrier.carry(path, server, options));
      return { way, address: { transport: 'socket', type: 'unix', path } };
    }
    await removeRamKeys(qmp);
    await addKey(parts, options);
    const way = RamWay.found(qmp, server);
    try {
      const socket = await bringTicket(server, options);
      await qmp.handOver(socket, RAM_SOCKET, { ...STEP, ...options });
      return { way, address: { transport: 'socket', type: 'fd', str: RAM_SOCKET } };
    } catch (error) {
      await removeRamKeys(qmp);
      options.signal.throwIfAborted();
      throw unreachable(server, error);
    }
  }

  /** Breaks the stream, as far as it goes through this agent. */
  reset(reason: Error): void {
    this.carriage?.reset(reason);
  }

  /** Makes QEMU forget the way, once it sends nothing any more. Never throws. */
  async close(report: ReportProblem): Promise<void> {
    this.reset(new Error('The RAM stream is over.'));
    if (this.credentials === '') return;
    try {
      await forgetCredentials(this.#qmp, STEP);
      await removeRamKeys(this.#qmp);
    } catch (error) {
      if (!(error instanceof QmpClosedError)) report('remove the key of the RAM', error);
    }
  }
}

/**
 * What QEMU does about sending RAM to this very place: `sending`; `ended`, so that it needs another
 * place; `nothing`; or `other` where it sends to another place.
 */
export async function findSending(
  qmp: QmpClient,
  server: RamServerAddress,
  options: WaitOptions,
): Promise<'sending' | 'ended' | 'nothing' | 'other'> {
  const step = { ...STEP, ...options };
  const [{ status = 'none' }, parameters] = await Promise.all([
    qmp.execute('query-migrate', {}, step),
    qmp.execute('query-migrate-parameters', {}, step),
  ]);
  const isOver = status === 'completed' || status === 'failed' || status === 'cancelled';
  // The name of the key is new for every QEMU that takes RAM, and nobody else has it.
  const own = parameters['tls-creds'] === ramClientKey(server.pskIdentity);
  if (status === 'none') return 'nothing';
  if (server.transport === 'direct' && own) return SENDING.includes(status) ? 'sending' : 'ended';
  return isOver ? 'nothing' : 'other';
}

/** Removes every key by which QEMU was to send its RAM, those of earlier lives of the agent too. */
export async function removeRamKeys(qmp: QmpClient): Promise<void> {
  const objects = await qmp.execute('qom-list', { path: '/objects' }, STEP);
  const keys = objects.filter(({ name }) => name.startsWith(RAM_CLIENT_KEYS));
  await Promise.all(
    keys.map(({ name: id }) => qmp.execute('object-del', { id }, STEP).catch(unlessRefused)),
  );
}

async function addKey(
  { qmp, directory, server }: RamWayParts,
  options: WaitOptions,
): Promise<void> {
  const { pskIdentity: identity, psk: key } = server;
  // QEMU's client end reads the file while the object is made and never again.
  await using folder = await PskFolder.write(directory, { identity, key }, RAM_KEY_FOLDER);
  await qmp.execute(
    'object-add',
    {
      'qom-type': 'tls-creds-psk',
      id: ramClientKey(identity),
      endpoint: 'client',
      dir: folder.path,
      username: identity,
      priority: PSK_PRIORITY,
    },
    options,
  );
}

function unreachable({ address, port }: RamServerAddress, cause: unknown): DomainError {
  return new DomainError('RAM_FAILED', `The RAM cannot be brought to ${address}:${port}.`, {
    cause,
    facts: { address, port },
    hint: "Let this host reach the other one's data address on all ports of its range.",
  });
}

function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}

import { randomBytes, randomInt } from 'node:crypto';
import { createServer, type Server } from 'node:net';
import type { Carrier } from '../channel/types.js';
import { DomainError } from './errors.js';
import type { DataProbe } from './incoming-types.js';

/** Where the QEMUs of this host may listen. */
export interface DataAddress {
  readonly address: string;
  /** First and last port. */
  readonly ports: readonly [first: number, last: number];
}

/** What an incoming domain takes its bytes in with. */
export interface DataDoors {
  /** This host. */
  readonly host: string;
  readonly sourceHost: string;
  readonly data: DataAddress;
  readonly carrier: Carrier;
  /** The beginning of the names of its keys, new for each incoming QEMU. */
  readonly pskIdentity: string;
}

/** Ports tried before giving up. */
const PORT_TRIES = 8;

/** How long a probe is open, in milliseconds. */
const PROBE_OPEN_MS = 10_000;

/** 256 bits that open the data door once; nobody can guess them. */
export function makeTicket(): string {
  return randomBytes(32).toString('base64url');
}

/**
 * Opens a port of the range with `use`, which is tried with one port after the other while it fails
 * because somebody else has the port; several agents of one machine begin at different places.
 *
 * @throws DomainError `NO_PORT`, or what `use` throws for a port that is free
 */
export async function openPort<T>(
  { address, ports: [first, last] }: DataAddress,
  use: (port: number) => Promise<T>,
): Promise<{ readonly port: number; readonly result: T }> {
  const count = last - first + 1;
  const offset = randomInt(count);
  let cause: unknown;
  for (let index = 0, tries = 0; index < count && tries < PORT_TRIES; index++) {
    const port = first + ((offset + index) % count);
    cause = await bindError(address, port);
    if (cause !== undefined) {
      // A wrong address is wrong for every port.
      if ((cause as NodeJS.ErrnoException).code === 'EADDRNOTAVAIL') break;
      tries++;
      continue;
    }
    try {
      return { port, result: await use(port) };
    } catch (error) {
      // Somebody may have taken the port in between. If it is free, something else was meant.
      if (!(await bindError(address, port))) throw error;
      cause = error;
      tries++;
    }
  }
  throw new DomainError(
    'NO_PORT',
    `No port from ${first} to ${last} could be opened on ${address}.`,
    { cause, side: 'destination', facts: { address, first_port: first, last_port: last } },
  );
}

/**
 * Opens a port of the range for one connection, and at most for ten seconds. Whoever connects gets
 * the nonce and nothing else.
 *
 * @throws DomainError `NO_PORT`
 */
export async function openProbe(data: DataAddress): Promise<DataProbe> {
  const nonce = randomBytes(16).toString('hex');
  const server = createServer((socket) => {
    server.close();
    socket.on('error', () => undefined);
    socket.setTimeout(PROBE_OPEN_MS, () => socket.destroy());
    socket.end(nonce);
    socket.resume();
    socket.unref();
  });
  server.maxConnections = 1;
  const { port } = await openPort(data, (candidate) => listen(server, data.address, candidate));
  setTimeout(() => server.close(), PROBE_OPEN_MS).unref();
  server.unref();
  return { address: data.address, port, nonce };
}

/** Binds a port and lets it go again: undefined if that worked. */
function bindError(host: string, port: number): Promise<Error | undefined> {
  const server = createServer();
  return listen(server, host, port).then(
    () => new Promise((resolve) => server.close(() => resolve(undefined))),
    (error: Error) => error,
  );
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

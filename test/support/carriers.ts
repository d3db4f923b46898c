import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Carriage, Carrier, StreamPlace } from '../../src/channel/types.js';
import { connectUnix } from '../../src/channel/unix-socket.js';
import { type CarrierSettings, LocalCarrier } from '../../src/rpc/carrier.js';
import type { AuditEvent } from '../../src/util/audit.js';
import { deferred } from '../../src/util/deferred.js';
import { makeTestCertificates, type TestCertificates } from './certificates.js';

/** A stream between two hosts, and what stands for the QEMUs at its ends. */
export interface CarriedWay {
  readonly ticket: string;
  readonly source: Carriage;
  readonly destination: Carriage;
  readonly sourceQemu: Socket;
  readonly destinationQemu: Socket;
}

/** The carriers of two hosts, `host-a` and `host-b`. */
export class CarrierStage implements AsyncDisposable {
  readonly directory: string;
  readonly certificates: TestCertificates;
  readonly source: Carrier;
  readonly destination: Carrier;
  /** What the destination's door has recorded. */
  readonly audit: Omit<AuditEvent, 'time'>[] = [];
  readonly #sockets: Socket[] = [];
  readonly #servers: Server[] = [];
  readonly #signal = new AbortController().signal;
  #count = 0;

  private constructor(
    directory: string,
    certificates: TestCertificates,
    make: (settings: CarrierSettings, host: string) => Carrier,
    tls: Record<'host-a' | 'host-b', CarrierSettings['tls']>,
  ) {
    this.directory = directory;
    this.certificates = certificates;
    const at = { address: '127.0.0.1', port: 0 };
    const audit = { record: (event: Omit<AuditEvent, 'time'>) => void this.audit.push(event) };
    this.source = make({ ...at, tls: tls['host-a'] }, 'host-a');
    this.destination = make({ ...at, tls: tls['host-b'], audit }, 'host-b');
  }

  static async open(
    make: (settings: CarrierSettings, host: string) => Carrier = (settings) =>
      new LocalCarrier(settings),
  ): Promise<CarrierStage> {
    const directory = await mkdtemp(join(tmpdir(), 'drover-carrier-'));
    const certificates = await makeTestCertificates();
    return new CarrierStage(directory, certificates, make, {
      'host-a': await certificates.host('host-a'),
      'host-b': await certificates.host('host-b'),
    });
  }

  /** A path for a socket that nobody has used yet. */
  path(): string {
    return join(this.directory, `s${++this.#count}.sock`);
  }

  /** Listens as a QEMU does; the answer is its one connection. */
  async listen(path: string): Promise<{ readonly accepted: Promise<Socket> }> {
    const accepted = deferred<Socket>();
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      this.#keep(socket);
      accepted.resolve(socket);
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return { accepted: accepted.promise };
  }

  /** Connects as a QEMU does. */
  async connect(path: string): Promise<Socket> {
    return this.#keep(await connectUnix(path, { signal: this.#signal }));
  }

  /** A new ticket, for which the destination waits at this path. */
  async expect(
    socketPath: string,
    host = 'host-a',
  ): Promise<{ carriage: Carriage; place: StreamPlace }> {
    const ticket = randomBytes(32).toString('base64url');
    const carriage = this.destination.expect(ticket, host, socketPath);
    const door = await this.destination.door({ signal: this.#signal });
    return { carriage, place: { ...door, ticket, host: 'host-b' } };
  }

  /** A whole way from QEMU to QEMU. */
  async way(): Promise<CarriedWay> {
    const arrival = this.path();
    const departure = this.path();
    const { accepted } = await this.listen(arrival);
    const { carriage: destination, place } = await this.expect(arrival);
    const source = await this.source.carry(departure, place, { signal: this.#signal });
    const sourceQemu = await this.connect(departure);
    const destinationQemu = await accepted;
    return { ticket: place.ticket, source, destination, sourceQemu, destinationQemu };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
    await Promise.all([this.source.close(), this.destination.close()]);
    await this.certificates[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true, force: true });
  }

  #keep(socket: Socket): Socket {
    socket.on('error', () => undefined);
    this.#sockets.push(socket);
    return socket;
  }
}

/** Writes so many random bytes in blocks of odd sizes, ends the half, and answers their hash. */
export async function sendRandom(socket: Socket, sizeBytes: number): Promise<string> {
  const hash = createHash('sha256');
  const random = randomBytes(1024 * 1024);
  for (let left = sizeBytes, turn = 0; left > 0; turn++) {
    const block = random.subarray(turn % 97, Math.min(random.length, left + (turn % 97)));
    left -= block.length;
    hash.update(block);
    if (!socket.write(block)) await new Promise((resolve) => socket.once('drain', resolve));
  }
  socket.end();
  return hash.digest('hex');
}

/** The hash of all that comes until the other end has ended its half. */
export async function receiveHash(socket: Socket): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) hash.update(chunk);
  return hash.digest('hex');
}

/** The text of all that comes. */
export async function receiveText(socket: Socket): Promise<string> {
  let text = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) text += String(chunk);
  return text;
}

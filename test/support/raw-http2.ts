import { readFileSync } from 'node:fs';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import type { CertificateFiles } from './certificates.js';

/*
 * HTTP/2 by hand, for what no library would send.
 */

export const FRAMES = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

export const FLAGS = { none: 0, endStream: 1, ack: 1, endHeaders: 4 } as const;

export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** One frame; `lengthBytes` is what its head says where that is a lie. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer = Buffer.alloc(0),
  lengthBytes = payload.length,
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(lengthBytes, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** Fields of a header, each as a literal that nobody is to remember. */
export function fields(list: readonly (readonly [string, string | Buffer])[]): Buffer {
  return Buffer.concat(
    list.flatMap(([name, value]) => [
      Buffer.from([0]),
      length(Buffer.byteLength(name)),
      Buffer.from(name),
      length(Buffer.byteLength(value)),
      Buffer.from(value),
    ]),
  );
}

/** What a gRPC call begins with. */
export function callFields(path: string): (readonly [string, string])[] {
  return [
    [':method', 'POST'],
    [':scheme', 'https'],
    [':path', path],
    [':authority', 'drover'],
    ['content-type', 'application/grpc'],
    ['te', 'trailers'],
  ];
}

/** A gRPC message; `lengthBytes` is what its head says where that is a lie. */
export function grpcMessage(body: Buffer, lengthBytes = body.length, compressed = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = compressed;
  head.writeUInt32BE(lengthBytes, 1);
  return Buffer.concat([head, body]);
}

/** A connection of TLS to an agent, with a certificate and anything else that is to differ. */
export async function tlsTo(
  address: string,
  files: CertificateFiles,
  options: ConnectionOptions = {},
): Promise<TLSSocket> {
  const socket = connectTls({
    host: '127.0.0.1',
    port: Number(address.split(':').at(-1)),
    ca: readFileSync(files.ca),
    cert: readFileSync(files.certificate),
    key: readFileSync(files.key),
    servername: 'drover',
    ALPNProtocols: ['h2'],
    ...options,
  });
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    socket.once('secureConnect', () => resolve());
    socket.once('close', () => resolve());
  });
  return socket;
}

/** The other end has stopped to listen when it has taken nothing for so long. */
const DEAF_MS = 1_000;

/**
 * Writes as much as the other end takes.
 *
 * @returns true when all is written, false when the other end has closed or listens no more
 */
export async function pour(socket: TLSSocket, pieces: Iterable<Buffer>): Promise<boolean> {
  socket.resume();
  for (const piece of pieces) {
    if (socket.destroyed || !socket.writable) return false;
    if (socket.write(piece)) continue;
    const deaf = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => done(true), DEAF_MS);
      const heard = () => done(false);
      const done = (isDeaf: boolean) => {
        clearTimeout(timer);
        socket.off('drain', heard).off('close', heard);
        resolve(isDeaf);
      };
      socket.on('drain', heard).on('close', heard);
    });
    if (deaf) return false;
  }
  return !socket.destroyed;
}

/** An integer of HPACK with a prefix of seven bits. */
function length(value: number): Buffer {
  if (value < 127) return Buffer.from([value]);
  const bytes = [127];
  let rest = value - 127;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}

import { readFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';

/*
 * What somebody without credentials finds on a host's network address: which ports are open, and
 * what each of them answers to whatever one may think of saying.
 */

const PORTS = 65_535;
const AT_ONCE = 256;
/** A port that has said nothing for so long has nothing to say. */
const SILENCE_MS = 700;
const GREETING_LIMIT_MS = 10_000;
const TLS_ALERT = 0x15;

/** The open ports of an address; every one is tried. */
export async function openPorts(address: string): Promise<number[]> {
  const open: number[] = [];
  let next = 1;
  const tryAll = async () => {
    for (let port = next++; port <= PORTS; port = next++) {
      if (await isOpen(address, port)) open.push(port);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, tryAll));
  return open.sort((a, b) => a - b);
}

/** The ports on which anything of this machine listens now, on any address. */
export async function listeningPorts(): Promise<ReadonlySet<number>> {
  const tables = await Promise.all(
    ['/proc/net/tcp', '/proc/net/tcp6'].map((path) => readFile(path, 'latin1').catch(() => '')),
  );
  const listening = tables.join('').matchAll(/^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) \S+ 0A /gm);
  return new Set([...listening].map(([, port = '']) => Number.parseInt(port, 16)));
}

function isOpen(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    const answer = (open: boolean) => {
      socket.destroy();
      resolve(open);
    };
    socket.on('connect', () => answer(true));
    socket.on('error', () => answer(false));
  });
}

/**
 * Says something to a port and answers with all that it said, until it closes or falls silent. A
 * port that `greets` is waited for, because its process may be busy.
 */
export function say(
  host: string,
  port: number,
  words: Buffer | string,
  { greets = false } = {},
): Promise<Buffer> {
  return new Promise((resolve) => {
    const heard: Buffer[] = [];
    const socket = createConnection({ host, port });
    const done = () => {
      socket.destroy();
      resolve(Buffer.concat(heard));
    };
    socket.setTimeout(greets ? GREETING_LIMIT_MS : SILENCE_MS, done);
    socket.once('data', () => socket.setTimeout(SILENCE_MS));
    socket.on('connect', () => socket.write(words));
    socket.on('data', (data) => heard.push(data));
    socket.on('error', done);
    socket.on('close', done);
  });
}

/** What clients of everything that an agent or a QEMU could speak say first. */
export const OPENINGS: Readonly<Record<string, Buffer | string>> = {
  nothing: '',
  'an HTTP/1 request': 'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
  'HTTP/2 without TLS': Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
  ]),
  QMP: '{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n',
  'the human monitor': 'info status\n',
  'a stream of RAM': Buffer.concat([Buffer.from('QEVM'), Buffer.from([0, 0, 0, 3]), zeros(64)]),
  VNC: 'RFB 003.008\n',
  'the gdb stub': '+$?#3f',
  zeros: zeros(4096),
};

/** True for TLS alerts and nothing else: a refusal. */
export function isTlsRefusal(answer: Buffer): boolean {
  for (let at = 0; at < answer.length; at += 5 + answer.readUInt16BE(at + 3)) {
    if (answer.length < at + 5 || answer[at] !== TLS_ALERT) return false;
  }
  return true;
}

/** Speaks TLS to a port, then says something; answers with what came back in plain text. */
export function sayInTls(
  options: ConnectionOptions & { host: string; port: number },
  words: Buffer | string,
): Promise<Buffer> {
  return new Promise((resolve) => {
    const heard: Buffer[] = [];
    const socket = connectTls({ rejectUnauthorized: false, ...options });
    const done = () => {
      socket.destroy();
      resolve(Buffer.concat(heard));
    };
    socket.setTimeout(SILENCE_MS, done);
    socket.on('secureConnect', () => socket.write(words));
    socket.on('data', (data) => heard.push(data));
    socket.on('error', done);
    socket.on('close', done);
  });
}

function zeros(bytes: number): Buffer {
  return Buffer.alloc(bytes);
}

/** How an NBD server begins, before anybody has said anything: magic, and two flags. */
export const NBD_GREETING = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]);

/** The options of an NBD client that could lead to data or to what is there. */
export const NBD_OPTIONS = { exportName: 1, list: 3, startTls: 5, info: 6, go: 7 } as const;
const NBD_ERROR = 0x8000_0000;
const NBD_ACK = 1;
const REPLY_HEAD_BYTES = 20;

/** What an NBD client says: its flags and one option. */
export function nbdOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(4 + 16);
  head.writeUInt32BE(3, 0);
  head.write('IHAVEOPT', 4, 'latin1');
  head.writeUInt32BE(option, 12);
  head.writeUInt32BE(data.length, 16);
  return Buffer.concat([head, data]);
}

/** What INFO and GO ask for: a name, and no further wishes. */
export function nbdExport(name: string): Buffer {
  const data = Buffer.alloc(4 + Buffer.byteLength(name) + 2);
  data.writeUInt32BE(Buffer.byteLength(name), 0);
  data.write(name, 4);
  return data;
}

/** The types of the replies in what an NBD server has said; its greeting must come first. */
export function nbdReplies(answer: Buffer): number[] {
  if (!answer.subarray(0, NBD_GREETING.length).equals(NBD_GREETING)) {
    throw new Error(`This is no greeting of NBD: ${answer.toString('hex')}`);
  }
  const types: number[] = [];
  for (let at = NBD_GREETING.length; at < answer.length; ) {
    if (answer.length < at + REPLY_HEAD_BYTES) throw new Error('A reply of NBD is cut off.');
    types.push(answer.readUInt32BE(at + 12));
    at += REPLY_HEAD_BYTES + answer.readUInt32BE(at + 16);
  }
  return types;
}

/** True for a reply that refuses. */
export function isNbdRefusal(type: number): boolean {
  return type >= NBD_ERROR;
}

/** True for the reply that lets TLS begin. */
export function isNbdAck(type: number): boolean {
  return type === NBD_ACK;
}

/**
 * Gets as far as an NBD client gets in TLS: answers with what it hears after the handshake, or
 * with why there was none.
 */
export function nbdInTls(
  host: string,
  port: number,
  tls: ConnectionOptions,
  words: Buffer,
): Promise<{ readonly failure: string; readonly heard: Buffer }> {
  return new Promise((resolve) => {
    const heard: Buffer[] = [];
    const raw = createConnection({ host, port });
    let plain = Buffer.alloc(0);
    const end = (failure: string) => {
      raw.destroy();
      resolve({ failure, heard: Buffer.concat(heard) });
    };
    raw.setTimeout(SILENCE_MS * 3, () => end('silent'));
    raw.on('error', ({ message }) => end(message));
    raw.on('close', () => end('closed'));
    raw.on('connect', () => raw.write(nbdOption(NBD_OPTIONS.startTls)));
    const onPlain = (data: Buffer) => {
      plain = Buffer.concat([plain, data]);
      if (plain.length < NBD_GREETING.length + REPLY_HEAD_BYTES) return;
      raw.off('data', onPlain);
      const socket = connectTls({ socket: raw, rejectUnauthorized: false, ...tls });
      socket.on('secureConnect', () => socket.write(words));
      socket.on('data', (more) => heard.push(more));
      socket.on('error', ({ message }) => end(message));
      socket.on('close', () => end('closed'));
    };
    raw.on('data', onPlain);
  });
}

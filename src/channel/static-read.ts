import type { Socket } from 'node:net';

/** Says where the bytes of a socket are to lie, and takes them there. */
export interface Intake {
  /** Where the next bytes are to lie: one byte at least. Asked after each `took`, too. */
  room(): Uint8Array;
  /**
   * So many bytes lie there now. False stops the reading until the socket is resumed; of a TLS
   * socket 64 KiB may still come then.
   */
  took(sizeBytes: number): boolean;
}

/** The names by which Node keeps the option `onread` of a socket. */
const OPTION = ['kBuffer', 'kBufferCb', 'kBufferGen'] as const;

/** What `onread` does to the handle of a socket. */
interface Handle {
  useUserBuffer(buffer: Uint8Array): void;
}

/**
 * Reads a socket into memory that is there already, from the bytes on that nobody has read yet.
 * Node has this as the option `onread` of sockets that it connects. Those that it accepts lack it,
 * and just they carry nearly all bytes. So the option is set from outside, in private fields.
 * Where a version of Node has other ones, each piece is memory of its own and copied once: slower,
 * and nothing else.
 */
export function readInto(socket: Socket, intake: Intake, canBeStatic = true): void {
  const early: Buffer | null = socket.read();
  // Before room is asked for what comes next: what is early takes some of it.
  const wanted = early === null || copyInto(intake, early);
  if (!canBeStatic || !setOption(socket, intake)) {
    socket.on('data', (bytes: Buffer) => {
      if (!copyInto(intake, bytes)) socket.pause();
    });
  }
  if (wanted) socket.resume();
  else socket.pause();
}

function setOption(socket: Socket, intake: Intake): boolean {
  const handle: Partial<Handle> | null | undefined = Reflect.get(socket, '_handle');
  const own = Object.getOwnPropertySymbols(socket);
  const [buffer, callback, generator] = OPTION.map((name) =>
    own.find(({ description }) => description === name),
  );
  if (!buffer || !callback || !generator) return false;
  if (typeof handle?.useUserBuffer !== 'function') return false;
  const room = () => intake.room();
  const first = room();
  Reflect.set(socket, buffer, first);
  Reflect.set(socket, callback, (sizeBytes: number) => intake.took(sizeBytes));
  Reflect.set(socket, generator, room);
  handle.useUserBuffer(first);
  return true;
}

/** Takes all of it, also when the intake wants no more: it has room for that. */
function copyInto(intake: Intake, bytes: Buffer): boolean {
  let wanted = true;
  for (let at = 0; at < bytes.length; ) {
    const room = intake.room();
    const part = bytes.subarray(at, at + room.length);
    room.set(part);
    wanted = intake.took(part.length);
    at += part.length;
  }
  return wanted;
}

import type { Socket } from 'node:net';
import { deferred } from '../util/deferred.js';
import { type ByteStream, CHUNK_BYTES } from './types.js';

/** What one relay carried. */
export interface RelayTotals {
  /** Bytes from the socket to the stream. */
  readonly sentBytes: number;
  /** Bytes from the stream to the socket. */
  readonly receivedBytes: number;
}

/** A relay at work. */
export interface Relay {
  /** Resolves when both directions have ended; rejects with what broke first. */
  readonly done: Promise<RelayTotals>;
  /** Which side was the first to end its half or to break; the other one may only have followed. */
  readonly endedFirst: 'socket' | 'stream' | undefined;
  /** Bytes that had come from the socket when the stream ended its half or broke; 0 until then. */
  readonly answeredBytes: number;
  /** Breaks both sides at once. Harmless when the relay is done. */
  reset(reason: Error): void;
}

/**
 * Joins a half-open socket with a stream until both directions have ended. The end of one half ends
 * the same half on the other side, and a reset of one side resets the other at once.
 *
 * Back-pressure goes from end to end: the socket is read only when the stream has taken the last
 * chunk, and the other way about. At most two chunks for each direction are in memory. Nothing
 * waits for a chunk to fill up: what the socket has goes out, and what arrives meanwhile is the
 * next chunk.
 */
export function startRelay(socket: Socket, stream: ByteStream): Relay {
  const totals = { sentBytes: 0, receivedBytes: 0 };
  let endedFirst: Relay['endedFirst'];
  let answeredBytes = 0;
  let broken: { readonly reason: unknown } | undefined;
  const reset = (reason: unknown) => {
    broken ??= { reason };
    stream.reset(reason instanceof Error ? reason : new Error(String(reason)));
    socket.destroy();
  };
  const blame = (side: 'socket' | 'stream') => (error: unknown) => {
    endedFirst ??= side;
    throw error;
  };
  const send = async () => {
    for await (const chunk of chunksOf(socket)) {
      // Counted before, so that whatever the other side does because of these bytes comes after.
      totals.sentBytes += chunk.length;
      await stream.write(chunk).catch(blame('stream'));
    }
    endedFirst ??= 'socket';
    await stream.end();
  };
  const receive = async () => {
    try {
      for await (const chunk of stream.incoming) {
        totals.receivedBytes += chunk.length;
        if (!socket.write(chunk)) await drained(socket).catch(blame('socket'));
      }
    } finally {
      endedFirst ??= 'stream';
      answeredBytes = totals.sentBytes;
    }
    await endHalf(socket);
  };
  // Both pumps may be waiting for the stream when the socket breaks, so its end is heard here.
  const onClose = () => {
    if (socket.errored || !socket.readableEnded || !socket.writableFinished) {
      endedFirst ??= 'socket';
      reset(brokenBy(socket));
    }
  };
  const run = async () => {
    socket.once('close', onClose);
    try {
      await Promise.all([send(), receive()]);
      return totals;
    } catch (error) {
      reset(error);
      throw broken?.reason;
    } finally {
      socket.off('close', onClose);
      socket.destroy();
    }
  };
  const done = run();
  // A failure is told to whoever awaits `done`; nobody must.
  done.catch(() => undefined);
  return {
    done,
    get endedFirst() {
      return endedFirst;
    },
    get answeredBytes() {
      return answeredBytes;
    },
    reset,
  };
}

/**
 * The bytes of a socket in the pieces in which they lie there, until its half ends. A reset throws.
 */
async function* chunksOf(socket: Socket): AsyncGenerator<Uint8Array, void, undefined> {
  let changed = deferred();
  const notify = () => {
    changed.resolve();
    changed = deferred();
  };
  const events = ['readable', 'end', 'close'] as const;
  for (const event of events) socket.on(event, notify);
  try {
    for (;;) {
      const next = changed.promise;
      const sizeBytes = Math.min(socket.readableLength, CHUNK_BYTES);
      const chunk: Buffer | null = sizeBytes > 0 ? socket.read(sizeBytes) : socket.read();
      if (chunk !== null) yield chunk;
      else if (socket.readableEnded) return;
      else if (socket.destroyed) throw brokenBy(socket);
      else await next;
    }
  } finally {
    for (const event of events) socket.off(event, notify);
  }
}

/** Resolves when the socket takes more; rejects when it never will. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = () => {
      socket.off('drain', onDrain);
      socket.off('close', onClose);
    };
    const onDrain = () => {
      done();
      resolve();
    };
    const onClose = () => {
      done();
      reject(brokenBy(socket));
    };
    if (socket.destroyed) onClose();
    else if (!socket.writableNeedDrain) onDrain();
    else {
      socket.on('drain', onDrain);
      socket.on('close', onClose);
    }
  });
}

/** Ends the socket's outgoing half and resolves when all its bytes are on their way. */
function endHalf(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    // A socket whose other end has gone already has nobody left to tell.
    if (socket.destroyed) {
      if (socket.readableEnded && !socket.errored) resolve();
      else reject(brokenBy(socket));
      return;
    }
    const onClose = () => reject(brokenBy(socket));
    socket.once('close', onClose);
    socket.end(() => {
      socket.off('close', onClose);
      resolve();
    });
  });
}

function brokenBy(socket: Socket): Error {
  return socket.errored ?? new Error('The socket was closed before its half had ended.');
}

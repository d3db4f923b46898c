import type { Socket } from 'node:net';
import { FRAME, frame, HEADER_BYTES, writeHeader } from './frames.js';
import { type Intake, readInto } from './static-read.js';

/** One piece with its header fills 16 TLS records. */
const PIECE_BYTES = 256 * 1024;

/** While one piece is on its way, the next one is read. */
const PIECES = 2;

/** Room for one piece, with its header before it. */
class Piece {
  readonly whole = Buffer.allocUnsafeSlow(PIECE_BYTES);
  readonly room = this.whole.subarray(HEADER_BYTES);

  /** The frame of the first bytes. */
  frame(sizeBytes: number): Buffer {
    writeHeader(this.whole, FRAME.data, sizeBytes);
    const endBytes = HEADER_BYTES + sizeBytes;
    return endBytes === PIECE_BYTES ? this.whole : this.whole.subarray(0, endBytes);
  }
}

/**
 * Sends what comes from a socket as frames, as it comes: nothing waits for a piece to fill up. The
 * socket is read only while there is room, so that its writer waits when the stream does.
 */
export class FrameSender implements Intake {
  readonly #socket: Socket;
  readonly #stream: Socket;
  readonly #pieces = Array.from({ length: PIECES }, () => new Piece());
  #at = 0;
  #free = PIECES;
  #sentBytes = 0;
  readonly #onWritten = () => {
    this.#free++;
    // Nothing can be read of a socket that was stopped, so the piece that comes next is free now.
    if (this.#free === 1 && !this.#socket.destroyed) this.#socket.resume();
  };

  constructor(socket: Socket, stream: Socket) {
    this.#socket = socket;
    this.#stream = stream;
  }

  /** Bytes that have come from the socket. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** Begins; `onEnded` is called when the socket has ended its half and the other end was told. */
  start(onEnd: () => void, onEnded: () => void): void {
    this.#socket.once('end', () => {
      onEnd();
      // A failed write is told here, too: the stream's own end says why.
      const written = (error?: Error | null) => {
        if (!error) onEnded();
      };
      if (this.#stream.writable) this.#stream.write(frame(FRAME.end), written);
    });
    readInto(this.#socket, this);
  }

  room(): Uint8Array {
    return this.#piece.room;
  }

  took(sizeBytes: number): boolean {
    // Counted before, so that whatever the other side does because of these bytes comes after.
    this.#sentBytes += sizeBytes;
    const whole = this.#piece.frame(sizeBytes);
    this.#at = (this.#at + 1) % PIECES;
    this.#free--;
    if (!this.#stream.writable) return false;
    this.#stream.write(whole, this.#onWritten);
    return this.#free > 0;
  }

  get #piece(): Piece {
    return this.#pieces[this.#at] as Piece;
  }
}
